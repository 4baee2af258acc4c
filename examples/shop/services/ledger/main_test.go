package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
)

func TestConversation(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- newLedger("ledger-1.0.0-0/9").serve(ctx, l) }()

	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	in := bufio.NewReader(c)
	for _, x := range [][2]string{
		{"add rent 40", "ok 40"},
		{"add rent 2", "ok 42"},
		{"total rent", "ok 42"},
		{"total none", "ok 0"},
		{"whoami", "ok ledger-1.0.0-0/9"},
		{"", "error: empty line"},
		{"add rent x", "error: invalid syntax: x"},
		{"dance", "error: add NAME AMOUNT, total NAME, whoami or quit"},
	} {
		_, _ = fmt.Fprintln(c, x[0])
		if got, err := in.ReadString('\n'); err != nil || got != x[1]+"\n" {
			t.Fatalf("%q: %q, %v; want %q", x[0], got, err, x[1])
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := in.ReadString('\n'); err != io.EOF {
		t.Errorf("after the end: %v, want EOF", err)
	}
}
