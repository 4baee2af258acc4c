package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// upstream is a server that can be killed, and comes back on its port.
type upstream struct {
	addr  string
	serve func(net.Listener) (stop func())
	mu    sync.Mutex
	stop  func()
}

func newUpstream(t *testing.T, serve func(net.Listener) func()) *upstream {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: l.Addr().String(), serve: serve, stop: serve(l)}
	t.Cleanup(u.kill)
	return u
}

func (u *upstream) port() string { return u.addr[strings.LastIndexByte(u.addr, ':')+1:] }

// kill ends the server and all its connections, as if the process had gone.
func (u *upstream) kill() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stop != nil {
		u.stop()
		u.stop = nil
	}
}

func (u *upstream) revive() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", u.addr)
	if err != nil {
		return err
	}
	u.stop = u.serve(l)
	return nil
}

// serveHTTP serves HTTP/1.1, HTTP/2 and gRPC.
func serveHTTP(l net.Listener) func() {
	g := grpc.NewServer()
	testpb.RegisterTestServiceServer(g, testService{})
	mux := http.NewServeMux()
	mux.HandleFunc("/{any}/echo", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Trailer", "X-Length")
		_, _ = w.Write(b)
		w.Header().Set("X-Length", strconv.Itoa(len(b)))
	})
	mux.HandleFunc("/{any}/big", func(w http.ResponseWriter, _ *http.Request) {
		b := make([]byte, 32<<10)
		for range bigBytes / len(b) {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/{any}/wait", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
		_, _ = io.WriteString(w, "late")
	})
	mux.HandleFunc("/{any}/early", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	mux.HandleFunc("/{any}/tunnel", func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		_, _ = io.Copy(c, rw)
	})
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			g.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}), Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	// Hijacked connections are ours to close.
	var mu sync.Mutex
	hijacked := map[net.Conn]bool{}
	s.ConnState = func(c net.Conn, st http.ConnState) {
		if st == http.StateHijacked {
			mu.Lock()
			hijacked[c] = true
			mu.Unlock()
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	return func() {
		_ = s.Close()
		g.Stop()
		mu.Lock()
		for c := range hijacked {
			_ = c.Close()
		}
		mu.Unlock()
		<-done
	}
}

const bigBytes = 1 << 20

type testService struct {
	testpb.UnimplementedTestServiceServer
}

func (testService) UnaryCall(_ context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{Payload: r.GetPayload()}, nil
}

func (testService) FullDuplexCall(s testpb.TestService_FullDuplexCallServer) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

// serveTCP echoes, and closes its half when the caller has closed the other.
func serveTCP(l net.Listener) func() {
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	return func() {
		_ = l.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	}
}
