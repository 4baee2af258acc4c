package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Long bodies go by splice in both directions, whole and unchanged, also to a slow reader, and the connections go on; short
// ones, chunked ones, those that a filter changes and those that may have to be sent again do not.
func TestSplicedBodies(t *testing.T) {
	const size = 4 << 20
	body := make([]byte, size)
	rand.Read(body)
	f := script{response: func(x *exchange.Exchange) snapshot.Verdict {
		if x.Req.Path == "/changed" {
			x.Resp.Header.DelKnown(exchange.ContentLength)
			x.Resp.ContentLength = -1
			x.Transform(exchange.Response, same{})
		}
		return snapshot.Continue
	}}
	m := newMesh(t, snapshot.HTTP1, []snapshot.Filter{f}, backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/chunked" {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		w.Write(b)
	}))
	c := client(t, false)
	post := func(path string, rd io.Reader) {
		t.Helper()
		resp, err := c.Post(m.url()+path, "application/octet-stream", rd)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var got bytes.Buffer
		if path == "/slow" {
			for i := 0; i < 20; i++ {
				io.CopyN(&got, resp.Body, 20<<10)
				<-time.After(time.Millisecond)
			}
		}
		if _, err := io.Copy(&got, resp.Body); err != nil || !bytes.Equal(got.Bytes(), body[:got.Len()]) || path != "/short" && got.Len() != size {
			t.Fatalf("%s: %d bytes, %v", path, got.Len(), err)
		}
	}
	for _, k := range []struct {
		path        string
		body        io.Reader
		least, most uint64
	}{
		{"/", bytes.NewReader(body), 2*size - 512<<10, 2 * size},
		{"/slow", bytes.NewReader(body), 2*size - 512<<10, 2 * size},
		{"/short", bytes.NewReader(body[:8<<10]), 0, 0},
		{"/chunked", struct{ io.Reader }{bytes.NewReader(body)}, 0, 0},
		{"/changed", bytes.NewReader(body), size - 512<<10, size}, // of the request alone
	} {
		was := m.count("outrigger_spliced_bytes_total")
		post(k.path, k.body)
		if n := m.count("outrigger_spliced_bytes_total") - was; n < k.least || n > k.most {
			t.Errorf("%s: %d bytes were spliced, want %d to %d", k.path, n, k.least, k.most)
		}
	}
	settled(t, m)
	if n := m.Table().Cluster("c").Connections(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
}

type same struct{}

func (same) Transform(dst, src []byte, _ bool) ([]byte, error) { return append(dst, src...), nil }

// A response without a length is spliced to a caller of HTTP/1.0, whose body ends with the connection too.
func TestSplicedUntilClose(t *testing.T) {
	const size = 4 << 20
	m := newMesh(t, snapshot.HTTP1, nil, rawServer(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			c.Write(make([]byte, size))
		}
	}))
	c, r := dial(t, m, "http")
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Fatal(n, err)
	}
	if n := m.count("outrigger_spliced_bytes_total"); n < size/2 {
		t.Errorf("%d bytes were spliced", n)
	}
	settled(t, m)
}

// Whoever breaks off in the middle of a spliced body is noticed by the other side, and nothing is left behind.
func TestSplicedBodyBrokenOff(t *testing.T) {
	const size = 64 << 20
	for _, who := range []string{"caller", "callee", "uploader", "receiver"} {
		t.Run(who, func(t *testing.T) {
			gone := make(chan error, 1)
			m := newMesh(t, snapshot.HTTP1, nil, rawServer(t, func(c net.Conn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				switch who {
				case "caller":
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
					_, err = io.CopyN(c, zeros{}, size)
				case "callee":
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
					_, err = io.CopyN(c, zeros{}, size/4)
				case "uploader":
					_, err = io.Copy(io.Discard, req.Body)
				case "receiver":
					_, err = io.CopyN(io.Discard, req.Body, 1<<20)
					_ = c.(*net.TCPConn).SetLinger(0)
				}
				gone <- err
			}))
			c, r := dial(t, m, "http")
			switch who {
			case "uploader", "receiver":
				fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
				n := int64(size)
				if who == "uploader" {
					n /= 4
				}
				_, _ = io.CopyN(c, zeros{}, n)
				if who == "uploader" {
					c.Close()
				} else if resp, err := http.ReadResponse(r, nil); err == nil && resp.StatusCode < 500 {
					t.Error(resp.Status)
				}
			default:
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if who == "caller" {
					io.CopyN(io.Discard, resp.Body, 1<<20)
					c.Close()
				} else if n, err := io.Copy(io.Discard, resp.Body); err == nil {
					t.Errorf("%d bytes passed for %d", n, size)
				}
			}
			if err := <-gone; (err == nil) != (who == "callee" || who == "receiver") {
				t.Error(err)
			}
			settled(t, m)
			waitFor(t, "the connection goes", func() bool { return m.Table().Cluster("c").Connections() == 0 })
			if m.count("outrigger_spliced_bytes_total") == 0 {
				t.Error("nothing was spliced")
			}
		})
	}
}

// TCP is spliced while much comes at once, and copied where little does; ends are passed on in either case.
func TestSplicedTCP(t *testing.T) {
	const size = 16 << 20
	m := newMesh(t, snapshot.TCP, nil, rawServer(t, func(c net.Conn, r *bufio.Reader) {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "bulk\n" {
				<-time.After(20 * time.Millisecond) // so that much waits
				n, _ := io.Copy(io.Discard, r)
				fmt.Fprintf(c, "%d", n)
				return
			}
			io.WriteString(c, strings.ToUpper(line))
		}
	}))
	c, r := dial(t, m, "tcp")
	for range 100 {
		io.WriteString(c, "hello\n")
		if line, err := r.ReadString('\n'); line != "HELLO\n" {
			t.Fatal(line, err)
		}
	}
	if n := m.count("outrigger_spliced_bytes_total"); n != 0 {
		t.Errorf("%d bytes of small talk were spliced", n)
	}
	io.WriteString(c, "bulk\n")
	go func() {
		c.Write(make([]byte, size))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	if b, err := io.ReadAll(r); string(b) != fmt.Sprint(size) || err != nil {
		t.Fatalf("%q %v", b, err)
	}
	if n := m.count("outrigger_spliced_bytes_total"); n < size/4 {
		t.Errorf("%d of %d bytes were spliced", n, size)
	}
	waitFor(t, "the connection goes", func() bool { return m.Table().Cluster("c").Connections() == 0 })
}
