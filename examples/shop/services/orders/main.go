// Command orders is the shop's order book over HTTP. It answers which version and which instance it is, in the body
// and in the field x-version, so that a split can be counted by a caller. Version 2.0.0 is the same program, told
// to be slower:
//
//	orders -version 2.0.0 -delay 20ms
//
// GET /orders/{id} reads, POST /orders adds one and counts it (a POST that was sent twice is counted twice), GET /count tells
// how many were added, /slow?ms=N answers after N milliseconds, /echo sends the request's body back.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/outrigger-mesh/outrigger/examples/shop/internal/process"
)

// maxSlow bounds /slow.
const maxSlow = time.Minute

func main() {
	version := flag.String("version", "1.0.0", "the version that answers tell")
	delay := flag.Duration("delay", 0, "how long each read or write of an order takes")
	flag.Parse()
	process.Exit(process.ServeHTTP(newOrders(*version, process.Instance(), *delay)))
}

// orders is the handler.
type orders struct {
	*http.ServeMux
	version, instance string
	delay             time.Duration
	added             atomic.Int64
}

// answer is the body of every answer but /echo's.
type answer struct {
	Service  string `json:"service"`
	Version  string `json:"version"`
	Instance string `json:"instance"`
	ID       string `json:"id,omitempty"`
	Added    int64  `json:"added"`
}

func newOrders(version, instance string, delay time.Duration) *orders {
	o := &orders{ServeMux: http.NewServeMux(), version: version, instance: instance, delay: delay}
	o.HandleFunc("GET /{$}", o.root)
	o.HandleFunc("GET /orders/{id}", o.get)
	o.HandleFunc("POST /orders", o.add)
	o.HandleFunc("GET /count", o.root)
	o.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	o.HandleFunc("/slow", o.slow)
	o.HandleFunc("/echo", o.echo)
	return o
}

// ServeHTTP adds x-version and x-instance to every answer.
func (o *orders) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Version", o.version)
	w.Header().Set("X-Instance", o.instance)
	o.ServeMux.ServeHTTP(w, r)
}

func (o *orders) root(w http.ResponseWriter, _ *http.Request) { o.tell(w, http.StatusOK, "") }

func (o *orders) get(w http.ResponseWriter, r *http.Request) {
	if !pause(r, o.delay) {
		return
	}
	o.tell(w, http.StatusOK, r.PathValue("id"))
}

func (o *orders) add(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, "reading the order: "+err.Error(), http.StatusBadRequest)
		return
	}
	n := o.added.Add(1)
	if !pause(r, o.delay) {
		return
	}
	o.tell(w, http.StatusCreated, strconv.FormatInt(n, 10))
}

func (o *orders) slow(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.Atoi(r.URL.Query().Get("ms"))
	d := time.Duration(ms) * time.Millisecond
	if err != nil || d < 0 || d > maxSlow {
		http.Error(w, "ms: a number from 0 to 60000", http.StatusBadRequest)
		return
	}
	if r.Method == http.MethodPost {
		o.added.Add(1)
	}
	if !pause(r, d) {
		return
	}
	o.tell(w, http.StatusOK, "")
}

func (o *orders) echo(w http.ResponseWriter, r *http.Request) {
	if t := r.Header.Get("Content-Type"); t != "" {
		w.Header().Set("Content-Type", t)
	}
	w.Header().Set("X-Method", r.Method)
	_, _ = io.Copy(w, r.Body)
}

func (o *orders) tell(w http.ResponseWriter, status int, id string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer{Service: "orders", Version: o.version, Instance: o.instance, ID: id, Added: o.added.Load()})
}

// pause waits for d; false where the caller has left.
func pause(r *http.Request, d time.Duration) bool {
	if d == 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}
