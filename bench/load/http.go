package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// httpClient keeps one request in flight on each connection. Without a rate the next follows the answer; with one,
// requests are due at fixed times whatever the answers do (an open loop), and latency counts from then.
type httpClient struct {
	request []byte
	size    int // of the body that is expected; -1: any
	rate    float64
	free    []*conn // idle connections, the one that rested longest first
	head    int     // of free, a ring
	idle    int
	next    int // number of the next request that is due
	began   int64
}

// httpState is a connection's.
type httpState struct {
	sent int64
	part []byte // of a head that is not whole
	left int    // of the body
	busy bool
}

func httpLoad(args []string) error {
	fs := flag.NewFlagSet("http", flag.ExitOnError)
	e, h := &engine{}, &httpClient{}
	e.register(fs)
	path := fs.String("path", "/", "path to ask for")
	fs.IntVar(&h.size, "size", -1, "bytes that each answer's body must have; -1: any")
	fs.Float64Var(&h.rate, "rate", 0, "requests a second in an open loop; 0: as fast as answers come")
	ca, cert, key := fs.String("ca", "", "TLS: `file` of the authority"), fs.String("cert", "", "TLS: client certificate"), fs.String("key", "", "TLS: its key")
	if err := fs.Parse(args); err != nil {
		return err
	}
	h.request = []byte("GET " + *path + " HTTP/1.1\r\nHost: bench.local\r\n\r\n")
	e.protocol = h
	wrap := func(fd int) (stream, error) { return socket(fd), nil }
	if *ca != "" {
		config, err := clientTLS(*ca, *cert, *key, "http/1.1")
		if err != nil {
			return err
		}
		wrap = func(fd int) (stream, error) { return handshake(fd, config) }
	}
	if err := e.run(wrap); err != nil {
		return err
	}
	return e.report()
}

func (h *httpClient) open(e *engine, c *conn) error {
	if h.rate > 0 {
		if h.free == nil {
			h.free = make([]*conn, len(e.conns))
		}
		h.rest(c)
		return nil
	}
	h.send(c, e.now)
	return nil
}

func (h *httpClient) send(c *conn, at int64) {
	c.http.sent, c.http.busy = at, true
	c.out = append(c.out, h.request...)
}

func (h *httpClient) rest(c *conn) {
	h.free[(h.head+h.idle)%len(h.free)] = c
	h.idle++
}

func (h *httpClient) due(e *engine) int64 {
	if h.rate == 0 {
		return 0
	}
	if h.began == 0 {
		h.began = e.now
	}
	for {
		at := h.began + int64(float64(h.next)*1e9/h.rate)
		if at > e.now {
			return at
		}
		if h.idle == 0 { // an answer will free a connection; the request is late by then, and its latency says so
			return e.now + int64(time.Millisecond)
		}
		c := h.free[h.head]
		h.head, h.idle, h.next = (h.head+1)%len(h.free), h.idle-1, h.next+1
		if c.stream == nil {
			continue
		}
		h.send(c, at)
		e.flush(c)
	}
}

var (
	headEnd = []byte("\r\n\r\n")
	okLine  = []byte("HTTP/1.1 200")
	length  = []byte("\r\ncontent-length:")
)

func (h *httpClient) input(e *engine, c *conn, p []byte) error {
	s := &c.http
	if !s.busy {
		return fmt.Errorf("an answer to no request: %.60q", p)
	}
	if s.left > 0 {
		if len(p) > s.left {
			return errors.New("more body than was announced")
		}
		s.left -= len(p)
	} else {
		if len(s.part) > 0 {
			s.part = append(s.part, p...)
			p = s.part
		}
		end := bytes.Index(p, headEnd)
		if end < 0 {
			if len(s.part) == 0 {
				s.part = append(s.part, p...)
			}
			return nil
		}
		n, err := bodyLength(p[:end+2])
		if err != nil {
			return err
		}
		if h.size >= 0 && n != h.size {
			return fmt.Errorf("a body of %d bytes, expected %d", n, h.size)
		}
		if s.left = n - (len(p) - end - len(headEnd)); s.left < 0 {
			return errors.New("more body than was announced")
		}
		s.part = s.part[:0]
	}
	if s.left > 0 {
		return nil
	}
	e.answered(s.sent)
	s.busy = false
	if h.rate == 0 {
		h.send(c, e.now)
	} else {
		h.rest(c)
	}
	return nil
}

func bodyLength(head []byte) (int, error) {
	if !bytes.HasPrefix(head, okLine) {
		return 0, fmt.Errorf("answered %.60q", head)
	}
	at := bytes.Index(head, []byte("\r\nContent-Length:"))
	if at < 0 {
		if at = bytes.Index(head, length); at < 0 {
			return 0, fmt.Errorf("an answer without Content-Length: %.200q", head)
		}
	}
	v, _, _ := bytes.Cut(head[at+len(length):], headEnd[:2])
	return strconv.Atoi(string(bytes.TrimSpace(v)))
}

func clientTLS(ca, cert, key, alpn string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", ca)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13, NextProtos: []string{alpn},
	}, nil
}

func handshake(fd int, config *tls.Config) (stream, error) {
	t := tls.Client(rawConn{socket(fd)}, config)
	if err := t.Handshake(); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return t, nil
}

// rawConn gives crypto/tls a socket; it needs no more of a net.Conn than this.
type rawConn struct{ socket }

func (c rawConn) Close() error                     { return unix.Close(int(c.socket)) }
func (c rawConn) LocalAddr() net.Addr              { return nil }
func (c rawConn) RemoteAddr() net.Addr             { return nil }
func (c rawConn) SetDeadline(time.Time) error      { return nil }
func (c rawConn) SetReadDeadline(time.Time) error  { return nil }
func (c rawConn) SetWriteDeadline(time.Time) error { return nil }
