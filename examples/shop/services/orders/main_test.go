package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestOrders(t *testing.T) {
	o := newOrders("2.0.0", "orders-2.0.0-0/1", 0)
	for _, c := range []struct {
		method, target, body string
		status               int
		id                   string
		added                int64
	}{
		{"GET", "/orders/7", "", 200, "7", 0},
		{"POST", "/orders", "{}", 201, "1", 1},
		{"POST", "/orders", "{}", 201, "2", 2},
		{"GET", "/slow?ms=1", "", 200, "", 2},
		{"POST", "/slow?ms=1", "", 200, "", 3},
		{"GET", "/count", "", 200, "", 3},
		{"GET", "/slow?ms=-1", "", 400, "", 0},
		{"GET", "/nothing", "", 404, "", 0},
	} {
		w := httptest.NewRecorder()
		o.ServeHTTP(w, httptest.NewRequest(c.method, c.target, strings.NewReader(c.body)))
		if w.Code != c.status {
			t.Errorf("%s %s: status %d, want %d", c.method, c.target, w.Code, c.status)
		}
		if v := w.Header().Get("X-Version"); v != "2.0.0" {
			t.Errorf("%s %s: x-version %q", c.method, c.target, v)
		}
		if w.Code >= 400 {
			continue
		}
		var a answer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatalf("%s %s: %v", c.method, c.target, err)
		}
		if a.ID != c.id || a.Added != c.added || a.Version != "2.0.0" || a.Instance != "orders-2.0.0-0/1" {
			t.Errorf("%s %s: %+v", c.method, c.target, a)
		}
	}
}

func TestEcho(t *testing.T) {
	o := newOrders("1.0.0", "i", 0)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPut, "/echo", strings.NewReader("all of it"))
	o.ServeHTTP(w, r)
	if w.Body.String() != "all of it" || w.Header().Get("X-Method") != "PUT" {
		t.Errorf("%q %v", w.Body, w.Header())
	}
}
