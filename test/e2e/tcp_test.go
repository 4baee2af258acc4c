package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestTCP has a conversation with the ledger through a client's own sidecar.
func TestTCP(t *testing.T) {
	ledger := service{name: "ledger", protocol: "tcp", command: []string{"ledger"}, health: "tcp: true"}
	m := harness.Up(t, write(t, []service{ledger, front(1, "ledger")}))
	addr := outbound(t, m.Of("front")[0], "ledger")

	for round := range 3 {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		in := bufio.NewReader(c)
		for i := 1; i <= 100; i++ {
			fmt.Fprintf(c, "add round%d 2\n", round)
			line, err := in.ReadString('\n')
			if want := fmt.Sprintf("ok %d\n", 2*i); err != nil || line != want {
				t.Fatalf("round %d: %q, %v; want %q", round, line, err, want)
			}
		}
		// The service ends the connection; that arrives too.
		fmt.Fprintln(c, "quit")
		rest, err := io.ReadAll(in)
		if err != nil || string(rest) != "bye\n" {
			t.Errorf("the end: %q, %v", rest, err)
		}
		_ = c.Close()
	}

	// One side may end its sending and still be answered.
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintln(c, "total round0")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); err != nil || string(all) != "ok 200\n" {
		t.Errorf("half-closed: %q, %v", all, err)
	}
}

// TestTCPServiceKilled: the connection ends, and a new one is served again.
func TestTCPServiceKilled(t *testing.T) {
	ledger := service{name: "ledger", protocol: "tcp", command: []string{"ledger"}, health: "tcp: true"}
	m := harness.Up(t, write(t, []service{ledger, front(1, "ledger")}))
	addr := outbound(t, m.Of("front")[0], "ledger")
	ask := func(c net.Conn) (string, error) {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fprintln(c, "total x"); err != nil {
			return "", err
		}
		return bufio.NewReader(c).ReadString('\n')
	}
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if line, err := ask(c); err != nil || line != "ok 0\n" {
		t.Fatalf("%q, %v", line, err)
	}
	m.Kill9(m.Of("ledger")[0].PID)
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(c); err != nil {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("the connection lives on without its service")
		}
	}
	harness.Eventually(t, 15*time.Second, func() error {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		line, err := ask(c)
		if err == nil && line != "ok 0\n" {
			err = fmt.Errorf("answer %q", line)
		}
		return err
	})
}
