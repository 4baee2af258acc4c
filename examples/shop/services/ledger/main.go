// Command ledger keeps the shop's accounts, over a TCP protocol of its own: one command a line, one answer a line.
//
//	add NAME AMOUNT     ok TOTAL
//	total NAME          ok TOTAL
//	whoami              ok INSTANCE
//	quit                bye, and the connection ends
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/examples/shop/internal/process"
)

// maxLine bounds one command, in bytes.
const maxLine = 4096

func main() { process.Exit(run()) }

func run() error {
	ctx, cancel := process.UntilTold()
	defer cancel()
	l, err := process.Listen()
	if err != nil {
		return err
	}
	fmt.Printf("listening on %s\n", l.Addr())
	return newLedger(process.Instance()).serve(ctx, l)
}

// ledger is the accounts.
type ledger struct {
	instance string
	mu       sync.Mutex
	totals   map[string]int64
}

func newLedger(instance string) *ledger {
	return &ledger{instance: instance, totals: map[string]int64{}}
}

// serve accepts until ctx ends, then lets every connection finish the command that it is at.
func (b *ledger) serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var conns sync.WaitGroup
	for {
		c, err := l.Accept()
		if err != nil {
			conns.Wait()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accepting: %w", err)
		}
		conns.Go(func() { b.converse(ctx, c) })
	}
}

// converse answers one connection. When ctx ends, the next read fails at once; what was read is still answered.
func (b *ledger) converse(ctx context.Context, c net.Conn) {
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	in := bufio.NewScanner(c)
	in.Buffer(make([]byte, 0, maxLine), maxLine)
	for in.Scan() {
		answer, more := b.do(strings.Fields(in.Text()))
		if _, err := fmt.Fprintln(c, answer); err != nil || !more {
			return
		}
	}
}

// do carries one command out and says whether the connection goes on.
func (b *ledger) do(words []string) (answer string, more bool) {
	if len(words) == 0 {
		return "error: empty line", true
	}
	switch {
	case words[0] == "add" && len(words) == 3:
		n, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			return "error: " + errors.Unwrap(err).Error() + ": " + words[2], true
		}
		return fmt.Sprint("ok ", b.add(words[1], n)), true
	case words[0] == "total" && len(words) == 2:
		return fmt.Sprint("ok ", b.add(words[1], 0)), true
	case words[0] == "whoami" && len(words) == 1:
		return "ok " + b.instance, true
	case words[0] == "quit":
		return "bye", false
	}
	return "error: add NAME AMOUNT, total NAME, whoami or quit", true
}

// add adds n to an account and returns its total.
func (b *ledger) add(name string, n int64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.totals[name] += n
	return b.totals[name]
}
