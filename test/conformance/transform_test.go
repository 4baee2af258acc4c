package conformance_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// shifter changes bodies in passing: it adds one to every byte, says how many there were at the end, and fails at a byte of
// its choice.
type shifter struct {
	n     int
	fails bool
}

var errShift = errors.New("a byte that cannot be")

func (s *shifter) Transform(dst, src []byte, end bool) ([]byte, error) {
	for _, c := range src {
		if s.fails && c == '!' {
			return nil, errShift
		}
		dst = append(dst, c+1)
	}
	s.n += len(src)
	if end {
		dst = fmt.Appendf(dst, "[%d]", s.n)
	}
	return dst, nil
}

// transforming puts shifters in the way where the request's x-transform field says so.
type transforming struct{ snapshot.Pass }

func (transforming) Request(x *exchange.Exchange) snapshot.Verdict {
	switch v, _ := x.Req.Header.Get("x-transform"); v {
	case "request":
		x.Transform(exchange.Request, &shifter{})
	case "request-fails":
		x.Transform(exchange.Request, &shifter{fails: true})
	case "request-twice":
		x.Transform(exchange.Request, &shifter{})
		x.Transform(exchange.Request, &shifter{})
	}
	return snapshot.Continue
}

func (transforming) Response(x *exchange.Exchange) snapshot.Verdict {
	switch v, _ := x.Req.Header.Get("x-transform"); v {
	case "response":
		x.Transform(exchange.Response, &shifter{})
	case "response-fails":
		x.Transform(exchange.Response, &shifter{fails: true})
	}
	return snapshot.Continue
}

func shifted(b []byte) []byte {
	out, _ := (&shifter{}).Transform(nil, b, true)
	return out
}

// TestTransform changes bodies of all sizes in passing, in either direction, with backpressure: the large ones are far larger
// than what may be held.
func TestTransform(t *testing.T) {
	m := newMesh(t, transforming{})
	for _, h2 := range protos {
		client := m.client(t, h2)
		for _, where := range []string{"request", "request-twice", "response"} {
			for _, n := range []int{0, 1, 5000, 100_000, 5 << 20} {
				for _, chunked := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/%d/chunked=%v", protoName(h2), where, n, chunked), func(t *testing.T) {
						body := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
						var rd io.Reader = bytes.NewReader(body)
						if chunked {
							rd = struct{ io.Reader }{rd}
						}
						req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, m.url+"/echo", rd)
						req.Header.Set("X-Transform", where)
						resp, err := client.Do(req)
						if err != nil {
							t.Fatal(err)
						}
						got, err := io.ReadAll(resp.Body)
						_ = resp.Body.Close()
						var want []byte
						switch where {
						case "request", "request-twice":
							if n == 0 && !chunked { // no body: nothing to transform
								want = []byte("got:")
								break
							}
							want = append([]byte("got:"), shifted(body)...)
							if where == "request-twice" {
								want = append([]byte("got:"), shifted(shifted(body))...)
							}
						case "response":
							want = shifted(append([]byte("got:"), body...))
						}
						if err != nil || !bytes.Equal(got, want) {
							t.Fatalf("%d bytes came back, want %d; %v; it begins with %.60q", len(got), len(want), err, got)
						}
					})
				}
			}
		}
	}
	m.settled(t)
}

// TestTransformFails: a transformer's error before the answer is a 502; in the answer it breaks it off.
func TestTransformFails(t *testing.T) {
	m := newMesh(t, transforming{})
	for _, h2 := range protos {
		client := m.client(t, h2)
		for _, where := range []string{"request-fails", "response-fails"} {
			for _, n := range []int{10, 300_000} {
				body := append(bytes.Repeat([]byte("x"), n), '!')
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, m.url+"/echo", bytes.NewReader(body))
				req.Header.Set("X-Transform", where)
				resp, err := client.Do(req)
				if err != nil {
					continue // the answer broke off before its head was written
				}
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err == nil && resp.StatusCode == 200 {
					t.Errorf("%s/%s/%d: a whole answer in spite of the error", protoName(h2), where, n)
				}
				if where == "request-fails" && err == nil && resp.StatusCode != 502 {
					t.Errorf("%s/%s/%d: %s, want 502", protoName(h2), where, n, resp.Status)
				}
			}
		}
		m.ping(t, client)
	}
	m.settled(t)
}
