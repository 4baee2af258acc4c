package soak

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// patience bounds an operation. What takes longer has hung.
const patience = 20 * time.Second

// worker does operations one after another. Its connections live from one to the next.
type worker struct {
	r     *rand.Rand
	addrs map[string]string
	ca    *authority

	h1, h1tls *h1Conn
	h2, h2tls *http2.ClientConn
	h2conns   []net.Conn
	grpc      *grpc.ClientConn
}

// operations by name. Each is done once and never tried again.
var operations = []struct {
	name string
	do   func(w *worker) error
}{
	{"http1", func(w *worker) error { return w.echo(&w.h1, "http") }},
	{"http1 reset", (*worker).h1Reset},
	{"http1 half-close", (*worker).h1HalfClose},
	{"http1 slow reader", (*worker).h1Slow},
	{"http1 early answer", (*worker).h1Early},
	{"http1 malformed", (*worker).h1Malformed},
	{"http2", func(w *worker) error { return w.h2Echo(&w.h2, "http") }},
	{"http2 cancelled", (*worker).h2Cancel},
	{"http2 slow reader", (*worker).h2Slow},
	{"grpc unary", (*worker).unary},
	{"grpc stream", (*worker).stream},
	{"grpc cancelled", (*worker).grpcCancel},
	{"websocket", (*worker).websocket},
	{"tcp", (*worker).tcp},
	{"tcp reset", (*worker).tcpReset},
	{"tls http1", func(w *worker) error { return w.echo(&w.h1tls, "tls") }},
	{"tls http2", func(w *worker) error { return w.h2Echo(&w.h2tls, "tls") }},
	{"tls handshake", (*worker).handshake},
}

// refused is an answer of the sidecar's own.
type refused struct {
	code   int
	reason string
}

func (e *refused) Error() string { return fmt.Sprintf("%d %s", e.code, e.reason) }

// wrongError is an answer that cannot be, whatever the upstreams do.
type wrongError string

func (e wrongError) Error() string { return string(e) }

// excusable says whether an operation may fail so while an upstream goes down or comes up.
func excusable(err error) bool {
	var r *refused
	var ne net.Error
	var we wrongError
	switch {
	case errors.As(err, &we):
		return false
	case errors.As(err, &r):
		return r.code == 503 || r.code == 502
	case errors.As(err, &ne) && ne.Timeout(), errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return false
	case strings.Contains(err.Error(), "connecting:") && !strings.Contains(err.Error(), "reset"): // the sidecar itself is always there
		return false
	}
	return true
}

func reason(err error) string {
	var r *refused
	if errors.As(err, &r) {
		return r.Error()
	}
	if s, ok := status.FromError(err); ok {
		return "grpc " + s.Code().String()
	}
	s := err.Error()
	for _, k := range []string{"connection reset", "EOF", "timeout", "stream error", "GOAWAY", "broken pipe", "client conn", "client connection"} {
		if strings.Contains(s, k) {
			return k
		}
	}
	return s[:min(len(s), 60)]
}

func (w *worker) close() {
	for _, c := range []*h1Conn{w.h1, w.h1tls} {
		if c != nil {
			_ = c.Close()
		}
	}
	for _, c := range w.h2conns {
		_ = c.Close()
	}
	if w.grpc != nil {
		_ = w.grpc.Close()
	}
	w.h1, w.h1tls, w.h2, w.h2tls, w.h2conns, w.grpc = nil, nil, nil, nil, nil, nil
}

func (w *worker) body(most int) []byte {
	b := make([]byte, w.r.IntN(most))
	for i := range b {
		b[i] = byte(i*7 + len(b))
	}
	return b
}

func (w *worker) path(what string) string {
	return []string{"/h1/", "/h2/", "/split/"}[w.r.IntN(3)] + what
}

// dial connects to a listener.
func (w *worker) dial(listener string, protocols ...string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", w.addrs[listener], patience)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if listener != "tls" {
		return c, nil
	}
	t := tls.Client(c, &tls.Config{RootCAs: w.ca.pool, ServerName: "soak.example", NextProtos: protocols})
	if err := t.Handshake(); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("connecting: handshake: %w", err)
	}
	return t, nil
}

type h1Conn struct {
	net.Conn
	in *bufio.Reader
}

// open opens a connection for HTTP/1.1.
func (w *worker) open(listener string) (*h1Conn, error) {
	c, err := w.dial(listener, "http/1.1")
	if err != nil {
		return nil, err
	}
	return &h1Conn{c, bufio.NewReader(c)}, nil
}

func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

func answer(resp *http.Response) error {
	if resp.StatusCode < 500 {
		return nil
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return &refused{resp.StatusCode, resp.Header.Get("X-Outrigger-Reason")}
}

func same(resp *http.Response, body []byte) error {
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(got, body):
		return wrongError(fmt.Sprintf("%d bytes were sent, others of %d came back", len(body), len(got)))
	case resp.StatusCode != 200 || resp.Trailer.Get("X-Length") != fmt.Sprint(len(body)) || resp.Header.Get("X-Push") == "":
		return wrongError(fmt.Sprintf("%s, trailers %v, headers %v", resp.Status, resp.Trailer, resp.Header))
	}
	return nil
}

// echo sends a body with a length or in chunks and has it back, on a connection that lives on.
func (w *worker) echo(at **h1Conn, listener string) (err error) {
	if *at == nil {
		if *at, err = w.open(listener); err != nil {
			return err
		}
	}
	c := *at
	defer func() {
		if err != nil {
			_ = c.Close()
			*at = nil
		}
	}()
	_ = c.SetDeadline(time.Now().Add(patience))
	body := w.body(60_000)
	var rd io.Reader = bytes.NewReader(body)
	if w.r.IntN(2) == 0 {
		rd = struct{ io.Reader }{rd}
	}
	req, err := http.NewRequest("POST", "http://soak"+w.path("echo"), rd)
	if err != nil {
		return err
	}
	if err := req.Write(c); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, req)
	if err != nil {
		return err
	}
	if err := answer(resp); err != nil {
		return err
	}
	if err := same(resp, body); err != nil {
		return err
	}
	if resp.Close || w.r.IntN(20) == 0 {
		_ = c.Close()
		*at = nil
	}
	return nil
}

// h1Reset leaves with RST within its request, or while it waits.
func (w *worker) h1Reset() error {
	c, err := w.open("http")
	if err != nil {
		return err
	}
	switch w.r.IntN(3) {
	case 0:
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: soak\r\nContent-Length: 100000\r\n\r\n%s", w.path("echo"), w.body(20000))
	case 1:
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: soak\r\n\r\n", w.path("wait"))
	default:
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHo", w.path("wait"))
	}
	reset(c.Conn)
	return nil
}

// h1HalfClose closes its half behind its request: that is taken as leaving, or answered, and ends.
func (w *worker) h1HalfClose() error {
	c, err := w.open("http")
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: soak\r\n\r\n", w.path([]string{"wait", "echo", "big"}[w.r.IntN(3)]))
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
		return err
	}
	return nil
}

// h1Slow reads a large answer haltingly, to its end or not.
func (w *worker) h1Slow() error {
	c, err := w.open("http")
	if err != nil {
		return err
	}
	defer reset(c.Conn)
	req, err := http.NewRequest("GET", "http://soak"+w.path("big"), nil)
	if err != nil {
		return err
	}
	if err := req.Write(c); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, req)
	if err != nil {
		return err
	}
	if err := answer(resp); err != nil {
		return err
	}
	return slowly(resp.Body, w.r.IntN(2) == 0)
}

func slowly(body io.Reader, all bool) error {
	n := int64(0)
	for range 4 {
		k, err := io.CopyN(io.Discard, body, 20_000)
		if n += k; err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !all {
		return nil
	}
	k, err := io.Copy(io.Discard, body)
	if err == nil && n+k != bigBytes {
		return wrongError(fmt.Sprintf("%d bytes of %d", n+k, bigBytes))
	}
	return err
}

// h1Early is answered before its request is whole.
func (w *worker) h1Early() error {
	c, err := w.open("http")
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: soak\r\nContent-Length: 1000000\r\n\r\nbegun", w.path("early"))
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	if err := answer(resp); err != nil {
		return err
	}
	if resp.StatusCode != 403 || !resp.Close {
		return wrongError(fmt.Sprintf("an early answer: %s, close %v", resp.Status, resp.Close))
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (w *worker) h1Malformed() error {
	c, err := w.open("http")
	if err != nil {
		return err
	}
	defer c.Close()
	_, _ = io.WriteString(c, []string{
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "\x16\x03\x01\x00", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n",
	}[w.r.IntN(4)])
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return wrongError("nonsense: " + err.Error())
	}
	if resp.StatusCode != 400 {
		return wrongError("nonsense: " + resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// open2 opens a connection for HTTP/2, or keeps the one there is. A connection that is not to be used again is replaced before
// anything is sent on it.
func (w *worker) open2(at **http2.ClientConn, listener string) error {
	if *at != nil && (*at).CanTakeNewRequest() {
		return nil
	}
	c, err := w.dial(listener, "h2")
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	w.h2conns = append(w.h2conns, c)
	*at, err = (&http2.Transport{AllowHTTP: true}).NewClientConn(c)
	return err
}

func (w *worker) h2Echo(at **http2.ClientConn, listener string) error {
	if err := w.open2(at, listener); err != nil {
		return err
	}
	n := 1 + w.r.IntN(8)
	errs := make(chan error, n)
	for range n {
		body, path := w.body(40_000), w.path("echo")
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			errs <- func() error {
				req, err := http.NewRequestWithContext(ctx, "POST", "http://soak"+path, bytes.NewReader(body))
				if err != nil {
					return err
				}
				resp, err := (*at).RoundTrip(req)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if err := answer(resp); err != nil {
					return err
				}
				return same(resp, body)
			}()
		}()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (w *worker) h2Get(path string, use func(cancel func(), resp *http.Response, err error) error) error {
	if err := w.open2(&w.h2, "http"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://soak"+path, nil)
	if err != nil {
		return err
	}
	if use == nil {
		time.AfterFunc(time.Duration(w.r.IntN(20))*time.Millisecond, cancel)
		if resp, err := w.h2.RoundTrip(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		return nil
	}
	resp, err := w.h2.RoundTrip(req)
	if err == nil {
		defer resp.Body.Close()
		err = answer(resp)
	}
	return use(cancel, resp, err)
}

// h2Cancel gives up at any moment.
func (w *worker) h2Cancel() error {
	return w.h2Get(w.path([]string{"wait", "big", "echo"}[w.r.IntN(3)]), nil)
}

func (w *worker) h2Slow() error {
	return w.h2Get(w.path("big"), func(_ func(), resp *http.Response, err error) error {
		if err != nil {
			return err
		}
		return slowly(resp.Body, w.r.IntN(2) == 0)
	})
}

func (w *worker) client() (testpb.TestServiceClient, error) {
	if w.grpc == nil {
		c, err := grpc.NewClient("passthrough:///"+w.addrs["http"], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig())
		if err != nil {
			return nil, err
		}
		w.grpc = c
	}
	return testpb.NewTestServiceClient(w.grpc), nil
}

func (w *worker) unary() error {
	c, err := w.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body := w.body(30_000)
	resp, err := c.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: body}})
	if err == nil && !bytes.Equal(resp.GetPayload().GetBody(), body) {
		return wrongError("another message came back")
	}
	return err
}

func (w *worker) stream() error {
	c, err := w.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range 1 + w.r.IntN(6) {
		body := w.body(5000)
		if err := s.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: body}}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if !bytes.Equal(m.GetPayload().GetBody(), body) {
			return wrongError("another message came back")
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (w *worker) grpcCancel() error {
	c, err := w.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+w.r.IntN(20))*time.Millisecond)
	defer cancel()
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return nil //nolint:nilerr // it was given up
	}
	_ = s.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: w.body(5000)}})
	_, _ = s.Recv()
	_, _ = s.Recv() // until the time is over
	return nil
}

// websocket upgrades, and has back what it sends.
func (w *worker) websocket() error {
	c, err := w.open("http")
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprint(c, "GET /h1/tunnel HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	if err := answer(resp); err != nil {
		return err
	}
	if resp.StatusCode != 101 {
		return wrongError("an upgrade: " + resp.Status)
	}
	for range 1 + w.r.IntN(5) {
		if err := pingPong(c, c.in, append(w.body(3000), '.')); err != nil {
			return err
		}
	}
	if w.r.IntN(3) == 0 {
		reset(c.Conn)
		return nil
	}
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	_, err = io.Copy(io.Discard, c.in)
	return err
}

func pingPong(out io.Writer, in io.Reader, body []byte) error {
	if _, err := out.Write(body); err != nil {
		return err
	}
	got := make([]byte, len(body))
	if _, err := io.ReadFull(in, got); err != nil {
		return err
	}
	if !bytes.Equal(got, body) {
		return wrongError("other bytes came back")
	}
	return nil
}

// tcp closes its half and reads all that it has sent.
func (w *worker) tcp() error {
	c, err := w.dial("tcp")
	if err != nil {
		return err
	}
	defer c.Close()
	body := append(w.body(100_000), '.')
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(body)
		_ = c.(*net.TCPConn).CloseWrite()
		sent <- err
	}()
	got, err := io.ReadAll(c)
	_ = c.Close()
	if serr := <-sent; err == nil && serr != nil {
		err = serr
	}
	switch {
	case err != nil:
		return err
	case len(got) < len(body):
		return io.ErrUnexpectedEOF
	case !bytes.Equal(got, body):
		return wrongError("other bytes came back")
	}
	return nil
}

func (w *worker) tcpReset() error {
	c, err := w.dial("tcp")
	if err != nil {
		return err
	}
	_, _ = c.Write(w.body(50_000))
	reset(c)
	return nil
}

// handshake makes a connection and leaves, or leaves within the handshake.
func (w *worker) handshake() error {
	if w.r.IntN(2) == 0 {
		c, err := net.DialTimeout("tcp", w.addrs["tls"], patience)
		if err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		_, _ = c.Write([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
		reset(c)
		return nil
	}
	c, err := w.dial("tls", "h2", "http/1.1")
	if err != nil {
		return err
	}
	return c.Close()
}

// serial is the push that the certificate in use came with.
func (w *worker) serial() (int64, error) {
	c, err := w.dial("tls", "http/1.1")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}
