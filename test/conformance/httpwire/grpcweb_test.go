package httpwire_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

const grpcWeb = `{"name": "envoy.filters.http.grpc_web", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"}},`

// webCall is a gRPC-Web client as a browser's: one POST, and an answer read frame by frame.
type webCall struct {
	*http.Response
	body io.Reader
}

func call(t testing.TB, c *http.Client, url string, text bool, m proto.Message) webCall {
	t.Helper()
	b, _ := proto.Marshal(m)
	frame := append([]byte{0, 0, 0, 0, byte(len(b))}, b...)
	ct := "application/grpc-web+proto"
	if text {
		ct = "application/grpc-web-text+proto"
		frame = []byte(base64.StdEncoding.EncodeToString(frame))
	}
	req, _ := http.NewRequest("POST", url, bytes.NewReader(frame))
	req.Header.Set("Content-Type", ct)
	req.Header.Set("Accept", ct)
	req.Header.Set("X-Grpc-Web", "1")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != 200 || !strings.HasPrefix(ct, resp.Header.Get("Content-Type")) {
		t.Fatal(resp.Status, resp.Header)
	}
	w := webCall{resp, resp.Body}
	if text {
		w.body = &pieces{r: resp.Body}
	}
	return w
}

// pieces reads base64 of which each group may be padded.
type pieces struct {
	r    io.Reader
	rest []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		var group [4]byte
		if _, err := io.ReadFull(p.r, group[:]); err != nil {
			return 0, err
		}
		var err error
		if p.rest, err = base64.StdEncoding.DecodeString(string(group[:])); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// frame reads one: its flags and what is in it.
func (w webCall) frame(t testing.TB) (byte, []byte) {
	t.Helper()
	var h [5]byte
	if _, err := io.ReadFull(w.body, h[:]); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(h[1:]))
	if _, err := io.ReadFull(w.body, b); err != nil {
		t.Fatal(err)
	}
	return h[0], b
}

func TestGRPCWeb(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, hs := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(srv, hs)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	sc := start(t, spec{up: l.Addr().String(), h2: true, filters: grpcWeb})
	for _, h2 := range []bool{false, true} {
		for _, text := range []bool{false, true} {
			t.Run(fmt.Sprintf("h2 %v, text %v", h2, text), func(t *testing.T) {
				c := client(t, h2)
				// a message and trailers
				w := call(t, c, sc.url+"/grpc.health.v1.Health/Check", text, &healthpb.HealthCheckRequest{})
				flags, b := w.frame(t)
				got := &healthpb.HealthCheckResponse{}
				if err := proto.Unmarshal(b, got); err != nil || flags != 0 || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
					t.Fatal(flags, got, err)
				}
				if flags, b = w.frame(t); flags != 0x80 || !strings.Contains(string(b), "grpc-status: 0\r\n") {
					t.Fatalf("%x %q", flags, b)
				}
				if n, _ := w.body.Read(make([]byte, 1)); n != 0 || len(w.Trailer) != 0 {
					t.Fatal("more than the trailers", w.Trailer)
				}
				// an error alone
				w = call(t, c, sc.url+"/grpc.health.v1.Health/Check", text, &healthpb.HealthCheckRequest{Service: "none"})
				if w.Header.Get("Grpc-Status") != "5" {
					if flags, b = w.frame(t); flags != 0x80 || !strings.Contains(string(b), "grpc-status: 5\r\n") {
						t.Fatalf("%x %q", flags, b)
					}
				}
				if w = call(t, c, sc.url+"/grpc.health.v1.Health/None", text, &healthpb.HealthCheckRequest{}); w.Header.Get("Grpc-Status") != "12" {
					t.Fatal(w.Header)
				}
				// a stream: each message comes when it is sent
				w = call(t, c, sc.url+"/grpc.health.v1.Health/Watch", text, &healthpb.HealthCheckRequest{})
				for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING, healthpb.HealthCheckResponse_SERVING} {
					hs.SetServingStatus("", want)
					if flags, b = w.frame(t); proto.Unmarshal(b, got) != nil || flags != 0 || got.GetStatus() != want {
						t.Fatal(flags, got, want)
					}
				}
				_ = w.Body.Close()
				// what is not gRPC-Web is left alone
				resp, err := c.Post(sc.url+"/grpc.health.v1.Health/Check", "application/grpc-webby", nil)
				if err != nil || resp.StatusCode != 415 {
					t.Fatal(resp, err)
				}
				_ = resp.Body.Close()
				// a body that is not what it says
				if text {
					resp, err := c.Post(sc.url+"/grpc.health.v1.Health/Check", "application/grpc-web-text", strings.NewReader("!!!!"))
					if err != nil || resp.Header.Get("Grpc-Status") == "" || resp.Header.Get("Grpc-Status") == "0" {
						t.Fatal(resp, err)
					}
					_ = resp.Body.Close()
				}
			})
		}
	}
	sc.settled(t)
	// an answer of the sidecar's own
	sc = start(t, spec{up: closedListen, h2: true, filters: grpcWeb})
	if w := call(t, client(t, false), sc.url+"/a.B/C", false, &healthpb.HealthCheckRequest{}); w.Header.Get("Grpc-Status") != "14" {
		t.Fatal(w.Header)
	}
}
