package archtest

import (
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// TestModule is the check itself.
func TestModule(t *testing.T) {
	files, err := Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d files found: wrong root?", len(files))
	}
	for _, v := range Table().Check(files) {
		t.Error(v)
	}
}

// TestCheckFails proves that each kind of rule can be broken.
func TestCheckFails(t *testing.T) {
	const us = Module + "/"
	for _, c := range []struct {
		name, file, src string
		want            string // part of the violation; "" for none
	}{
		{"sidecar imports controlplane", "sidecar/xdsclient/a.go", `package xdsclient; import _ "` + us + `controlplane/model"`, "share xDS"},
		{"so do its tests", "sidecar/xdsclient/a_test.go", `package xdsclient; import _ "` + us + `controlplane/model"`, "share xDS"},
		{"controlplane imports sidecar", "controlplane/ads/a.go", `package ads; import _ "` + us + `sidecar/snapshot"`, "share xDS"},
		{"supervisor imports controlplane", "supervisor/pool/a.go", `package pool; import _ "` + us + `controlplane/host"`, "stand below"},
		{"balancer imports exchange", "balancer/random/a.go", `package random; import _ "` + us + `sidecar/exchange"`, "stand below"},
		{"balancer imports internal", "balancer/random/a.go", `package random; import _ "` + us + `internal/stat"`, ""},
		{"exchange imports snapshot", "sidecar/exchange/a.go", `package exchange; import _ "` + us + `sidecar/snapshot"`, "every request"},
		{"exchange imports balancer", "sidecar/exchange/a.go", `package exchange; import _ "` + us + `balancer"`, ""},
		{"filter uses fmt", "sidecar/filter/fault/a.go", `package fault; import "fmt"`, "does without"},
		{"filter's test uses fmt", "sidecar/filter/fault/a_test.go", `package fault; import "fmt"`, ""},
		{"filter uses encoding/json", "sidecar/filter/fault/a.go", `package fault; import _ "encoding/json"`, "does without"},
		{"filter uses regexp/syntax", "sidecar/filter/fault/a.go", `package fault; import _ "regexp/syntax"`, "does without"},
		{"filter uses log/slog", "sidecar/filter/fault/a.go", `package fault; import _ "log/slog"`, "does without"},
		{"filter uses upstream", "sidecar/filter/fault/a.go", `package fault; import _ "` + us + `sidecar/upstream"`, "every request"},
		{"proxy uses upstream", "sidecar/proxy/http1/a.go", `package http1; import _ "` + us + `sidecar/upstream"`, ""},
		{"proxy uses net/http", "sidecar/proxy/http1/a.go", `package http1; import _ "net/http"`, "does without"},
		{"listeners are reported on", "sidecar/proxy/a.go", `package proxy; import _ "log/slog"`, ""},
		{"but not by codecs", "sidecar/proxy/http1/a.go", `package http1; import _ "log/slog"`, "does without"},
		{"probe asks over gRPC", "sidecar/probe/a.go", `package probe; import _ "google.golang.org/grpc"`, ""},
		{"probe takes part in an exchange", "sidecar/probe/a.go", `package probe; import _ "` + us + `sidecar/proxy/http1"`, "beside the data path"},
		{"runner uses the process leaf", "supervisor/runner/a.go", `package runner; import _ "` + us + `supervisor/process"`, ""},
		{"runner uses supervisor", "supervisor/runner/a.go", `package runner; import _ "` + us + `supervisor"`, "one process an instance"},
		{"loop uses x/sys", "sidecar/loop/a.go", `package loop; import _ "golang.org/x/sys/unix"`, ""},
		{"loop uses x/net", "sidecar/loop/a.go", `package loop; import _ "golang.org/x/net/http2"`, "other modules"},
		{"http2 uses the Framer", "sidecar/proxy/http2/a.go", `package http2; import _ "golang.org/x/net/http2"`, ""},
		{"breaker uses gobreaker", "sidecar/upstream/breaker/a.go", `package breaker; import _ "github.com/sony/gobreaker/v2"`, ""},
		{"upstream uses gobreaker", "sidecar/upstream/a.go", `package upstream; import _ "github.com/sony/gobreaker/v2"`, "other modules"},
		{"compile imports policy", "sidecar/compile/a.go", `package compile; import _ "` + us + `policy/retry"`, "share xDS"},
		{"compile imports our protos", "sidecar/compile/a.go", `package compile; import _ "` + us + `api/outrigger/v1"`, ""},
		{"model imports protobuf", "controlplane/model/a.go", `package model; import _ "google.golang.org/protobuf/proto"`, "protobuf begins"},
		{"runner imports a module", "supervisor/runner/a.go", `package runner; import _ "golang.org/x/sys/unix"`, "one process an instance"},
		{"runner imports internal", "supervisor/runner/a.go", `package runner; import _ "` + us + `internal/handoff"`, ""},
		{"internal imports balancer", "internal/clock/a.go", `package clock; import _ "` + us + `balancer"`, "stands on nothing"},
		{"consul client elsewhere", "controlplane/admin/a.go", `package admin; import _ "github.com/hashicorp/consul/api"`, "one importer"},
		{"consul client at home", "discovery/consul/a.go", `package consul; import _ "github.com/hashicorp/consul/api"`, ""},
		{"cmd imported", "controlplane/admin/a.go", `package admin; import _ "` + us + `cmd/outrigger"`, "composition root"},
		{"sidecar command imports store", "cmd/outrigger-sidecar/a.go", `package main; import _ "` + us + `controlplane/store"`, "data path alone"},
		{"prefix is no match", "sidecar/exchange/a.go", `package exchange; import _ "` + us + `balancers"`, "every request"},
		{"init", "controlplane/admin/a.go", `package admin; func init() {}`, "registries are values"},
		{"method init", "controlplane/admin/a.go", `package admin; type T int; func (T) init() {}`, ""},
		{"init in generated code", "api/outrigger/v1/a.pb.go", `package outriggerv1; func init() {}`, ""},
		{"package util", "internal/util/a.go", `package util`, "says nothing"},
		{"directory of another name", "internal/common/a.go", `package strings`, "says nothing"},
		{"test package of a good name", "internal/clock/a_test.go", `package clock_test`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, c.file, c.src, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			got := Table().Check([]File{{Path: c.file, AST: f, Fset: fset}})
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("allowed, but: %v", got)
			case c.want != "" && (len(got) == 0 || !strings.Contains(got[0].String(), c.want)):
				t.Errorf("got %v, want one with %q", got, c.want)
			}
		})
	}
}

// TestTable guards the table against rows that contradict themselves.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Table().Rows {
		if seen[r.Package] {
			t.Errorf("two rows for %s", r.Package)
		}
		seen[r.Package] = true
		if r.Reason == "" {
			t.Errorf("row %s has no reason", r.Package)
		}
	}
	for _, b := range Table().Bans {
		if b.Reason == "" || len(b.From) == 0 || len(b.Import) == 0 {
			t.Errorf("incomplete ban: %+v", b)
		}
	}
}
