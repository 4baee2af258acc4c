// Child is what the runner's tests run: a process or a sidecar that behaves as its first argument says.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/handoff"
)

func main() {
	arg := func(i int) string {
		if i < len(os.Args) {
			return os.Args[i]
		}
		return ""
	}
	number := func(i int) int { n, _ := strconv.Atoi(arg(i)); return n }
	switch arg(1) {
	case "serve": // listens on $PORT and answers each connection with its pid
		serve(os.Getenv("PORT"))
	case "ignore-port":
		serve("0")
	case "late": // MS
		time.Sleep(time.Duration(number(2)) * time.Millisecond)
		serve(os.Getenv("PORT"))
	case "silent":
		fmt.Println("silent")
		wait()
	case "die": // CODE LINES
		for i := 1; i <= number(3); i++ {
			fmt.Println("line", i)
		}
		os.Exit(number(2))
	case "fork": // a daemon: the child serves, the parent exits
		spawn("serve")
		for !accepting(os.Getenv("PORT")) {
			time.Sleep(5 * time.Millisecond)
		}
	case "stubborn": // ignores TERM, and so does its grandchild in another session
		signal.Ignore(syscall.SIGTERM)
		spawn("ignore-term")
		go serve(os.Getenv("PORT"))
		for {
			time.Sleep(time.Hour)
		}
	case "ignore-term":
		signal.Ignore(syscall.SIGTERM)
		for {
			time.Sleep(time.Hour)
		}
	case "flood": // writes for ever
		go serve(os.Getenv("PORT"))
		w := bufio.NewWriter(os.Stdout)
		for i := 0; ; i++ {
			fmt.Fprintln(w, "flood", i)
			w.Flush()
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	case "sidecar": // [NAME NETWORK ADDRESS]: a further listener to ask for
		sidecar(arg(2), arg(3), arg(4))
	case "bad-sidecar":
		os.Exit(7)
	default:
		fmt.Fprintln(os.Stderr, "what?")
		os.Exit(2)
	}
}

func spawn(mode string) {
	c := exec.Command(os.Args[0], mode)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		panic(err)
	}
	fmt.Println("spawned", c.Process.Pid)
}

func accepting(port string) bool {
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func serve(port string) {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening on", l.Addr())
	go answer(l, nil)
	if !signal.Ignored(syscall.SIGTERM) {
		wait()
	}
}

func answer(l net.Listener, busy *atomic.Int64) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if busy != nil {
			busy.Add(1)
		}
		go func() {
			defer func() {
				c.Close()
				if busy != nil {
					busy.Add(-1)
				}
			}()
			s := bufio.NewScanner(c)
			for s.Scan() {
				if s.Text() == "slow" {
					time.Sleep(300 * time.Millisecond)
				}
				fmt.Fprintln(c, os.Getpid())
			}
		}()
	}
}

func wait() {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM)
	<-sig
	os.Exit(0)
}

func sidecar(name, network, address string) {
	p, err := handoff.Dial()
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	g, err := p.Hello(ctx)
	if err != nil {
		panic(err)
	}
	var busy atomic.Int64
	var listeners []net.Listener
	use := func(f *os.File) {
		l, err := net.FileListener(f)
		if err != nil {
			panic(err)
		}
		f.Close()
		listeners = append(listeners, l)
		go answer(l, &busy)
	}
	for _, s := range g.Sockets {
		use(s.File)
		if s.Name == name {
			name = ""
		}
	}
	if name != "" {
		f, actual, err := p.Listen(ctx, name, network, address)
		if err != nil {
			panic(err)
		}
		fmt.Println("opened", name, actual)
		use(f)
	}
	fmt.Println("sidecar of", g.Identity.Instance, "process", g.Process.State)
	if err := p.Ready(); err != nil {
		panic(err)
	}
	go func() {
		for c := range p.Commands() {
			switch c := c.(type) {
			case handoff.Process:
				fmt.Println("process", c.State, c.PID)
			case handoff.Drain:
				fmt.Println("drain", c.Propagation, c.Deadline, c.Handover)
				if !c.Handover {
					time.Sleep(c.Propagation)
				}
				for _, l := range listeners {
					l.Close()
				}
				for end := time.Now().Add(c.Deadline); busy.Load() > 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				p.Drained()
			}
		}
	}()
	wait()
}
