package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

// hold opens connections one after another, has one exchange on each, and keeps them open and idle.
func hold(args []string) error {
	fs := flag.NewFlagSet("hold", flag.ExitOnError)
	addr, n := fs.String("addr", "", "`host:port`"), fs.Int("n", 2000, "connections")
	kind := fs.String("kind", "plain", "plain, tls or http2")
	ca, cert, key := fs.String("ca", "", "`file` of the authority"), fs.String("cert", "", "client certificate"), fs.String("key", "", "its key")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var config *tls.Config
	if *kind == "tls" {
		var err error
		if config, err = clientTLS(*ca, *cert, *key, "http/1.1"); err != nil {
			return err
		}
	}
	for i := range *n {
		if err := holdOne(*addr, *kind, config); err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// holdOne uses the clients of the other commands on a blocking socket.
func holdOne(addr, kind string, config *tls.Config) error {
	fd, err := dial(addr)
	if err != nil {
		return err
	}
	e := &engine{start: 1}
	c := &conn{fd: fd, stream: socket(fd)}
	if config != nil {
		if c.stream, err = handshake(fd, config); err != nil {
			return err
		}
	}
	var p protocol = &httpClient{size: -1, request: []byte("GET / HTTP/1.1\r\nHost: bench.local\r\n\r\n")}
	if kind == "http2" {
		p = &grpcClient{streams: 1, calls: map[uint32][][]byte{}}
	}
	if err := p.open(e, c); err != nil {
		return err
	}
	buf := make([]byte, 16<<10)
	deadline := time.Now().Add(10 * time.Second)
	for e.hist.n == 0 && time.Now().Before(deadline) {
		if _, err := c.stream.Write(c.out); err != nil {
			return err
		}
		c.out = c.out[:0]
		n, err := c.stream.Read(buf)
		if err != nil {
			return err
		}
		if err := p.input(e, c, buf[:n]); err != nil {
			return err
		}
	}
	return nil
}
