package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/overload"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// A queue that stands has a part of the requests refused before anything is done for them, and says so; health checks are
// not, and when the queue has drained nothing is.
func TestOverloadOfTheQueue(t *testing.T) {
	busy := script{request: func(x *exchange.Exchange) snapshot.Verdict {
		for until := time.Now().Add(time.Millisecond); time.Now().Before(until); { // work, not a wait
		}
		x.Respond(200, 0, "done")
		return snapshot.Respond
	}}
	limits := overload.Config{QueueTarget: 2 * time.Millisecond}
	m := newMeshOf(t, proxy.Options{Loops: 1, Overload: &limits}, snapshot.HTTP1, []snapshot.Filter{busy})
	const atOnce = 20
	batch := strings.Repeat("GET /work HTTP/1.1\r\nHost: x\r\n\r\n", atOnce-1) + "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		shed   string
		health int
	)
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return shed != ""
	}
	end := time.Now().Add(20 * time.Second)
	for range 16 {
		c, err := net.Dial("tcp", m.Addr("http"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		wg.Go(func() {
			r := bufio.NewReader(c)
			for !enough() && time.Now().Before(end) {
				if _, err := io.WriteString(c, batch); err != nil {
					t.Error(err)
					return
				}
				for i := range atOnce {
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Error(err)
						return
					}
					b, _ := io.ReadAll(resp.Body)
					mu.Lock()
					switch {
					case resp.StatusCode == 200:
					case i == atOnce-1:
						health++
					case resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "1":
						shed = string(b)
					default:
						t.Error(resp.Status, resp.Header)
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if !strings.Contains(shed, "overloaded: requests have waited") || !strings.HasSuffix(shed, "(OM)\n") {
		t.Errorf("%q", shed)
	}
	if health > 0 {
		t.Errorf("%d health checks were refused", health)
	}
	c := client(t, false)
	waitFor(t, "all are served again", func() bool {
		for range 20 {
			resp, err := c.Get(m.url())
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				return false
			}
		}
		return true
	})
}
