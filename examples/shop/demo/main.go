// Command demo runs the example shop and shows it: it starts `outrigger up`, waits until all is ready, puts a little load on
// orders and prints what to try.
//
// On a terminal it then goes on, with a line of what the load has met every few seconds, until Ctrl-C. Without one it
// takes the tour itself, step by step, and ends: with 0 if every step did what it says and everything was drained.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	d := &demo{out: os.Stdout}
	flag.StringVar(&d.outrigger, "outrigger", "bin/outrigger", "the outrigger command")
	flag.StringVar(&d.files, "f", "examples/shop", "the shop's resources")
	flag.StringVar(&d.state, "state", ".outrigger", "the state directory")
	flag.StringVar(&d.edge, "edge", "127.0.0.1:8080", "where the edge listens; another port is taken where this one is in use")
	flag.Parse()
	if err := d.run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// readyTime and drainTime bound the start and the end.
const (
	readyTime = 90 * time.Second
	drainTime = 60 * time.Second
)

type demo struct {
	outrigger, files, state, edge string
	out                           io.Writer
	ended                         chan error // what up ended with
}

func (d *demo) run() error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	if err := d.chooseEdge(); err != nil {
		return err
	}
	// The kernel ties Pdeathsig to the thread that starts the process.
	runtime.LockOSThread()
	up := exec.Command(d.outrigger, "up", "-f", d.files, "--state", d.state, "--edge", d.edge)
	up.Stdout, up.Stderr = os.Stdout, os.Stderr
	// A group of its own: Ctrl-C reaches this process alone, which then ends up in its turn, once.
	up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	if err := up.Start(); err != nil {
		return fmt.Errorf("starting outrigger up: %w", err)
	}
	d.ended = make(chan error, 1)
	go func() { d.ended <- up.Wait() }()

	err := d.show(ctx)
	if errors.Is(err, errUpEnded) {
		return err
	}
	d.say("\nEnding: the services are drained in reverse order.")
	_ = up.Process.Signal(syscall.SIGINT)
	select {
	case uerr := <-d.ended:
		if uerr != nil {
			err = errors.Join(err, fmt.Errorf("outrigger up: %w", uerr))
		}
	case <-time.After(drainTime):
		_ = up.Process.Kill()
		err = errors.Join(err, fmt.Errorf("outrigger up did not end within %v", drainTime))
	}
	return err
}

// errUpEnded says that the mesh ended before it was told to.
var errUpEnded = errors.New("outrigger up ended by itself")

// show returns what went wrong, and that calls of the load failed where some did.
func (d *demo) show(ctx context.Context) (err error) {
	if err := d.waitReady(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	load := startLoad(d.edge)
	defer func() {
		text, failed := load.stop()
		d.say("The load: %s.", text)
		if failed > 0 && err == nil {
			err = fmt.Errorf("%d calls of the load failed", failed)
		}
	}()
	if !terminal(os.Stdout) || !terminal(os.Stdin) {
		return d.tour(ctx)
	}
	d.print()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-d.ended:
			return errors.Join(errUpEnded, err)
		case <-tick.C:
			text, _ := load.result()
			d.say("load so far: %s", text)
		}
	}
}

func (d *demo) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		err := exec.CommandContext(ctx, d.outrigger, "status", "--wait", "60s", "--state", d.state).Run()
		if err == nil {
			return nil
		}
		select {
		case uerr := <-d.ended:
			return errors.Join(errUpEnded, uerr)
		case <-ctx.Done():
			return fmt.Errorf("waiting until all is ready: %w", ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// chooseEdge takes another port where the chosen one is in use.
func (d *demo) chooseEdge() error {
	l, err := net.Listen("tcp", d.edge)
	if err != nil {
		host, _, serr := net.SplitHostPort(d.edge)
		if serr != nil {
			return fmt.Errorf("-edge: %w", serr)
		}
		if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			return fmt.Errorf("finding a port for the edge: %w", err)
		}
		d.say("%s is in use; the edge listens on %s instead.", d.edge, l.Addr())
		d.edge = l.Addr().String()
	}
	return l.Close()
}

// command is the outrigger command as the reader would type it.
func (d *demo) command() string {
	c := d.outrigger
	if d.state != ".outrigger" {
		c += " --state " + d.state
	}
	return c
}

func (d *demo) print() {
	_, port, _ := net.SplitHostPort(d.edge)
	fmt.Fprintf(d.out, `
The shop is open. A little load runs against orders. In another terminal, try:

  curl http://front.localhost:%[1]s/checkout        buy something: front calls inventory (gRPC), orders (HTTP), ledger (TCP)
  curl http://orders.localhost:%[1]s/orders/1       nine of ten calls get version 1.0.0, the tenth 2.0.0
  curl -H 'x-beta: 1' http://orders.localhost:%[1]s/orders/1      always 2.0.0: the Route in %[3]s
  %[2]s ps                          what runs
  %[2]s kill orders-1.0.0-0         lose a process: the load does not notice, and it comes back
  %[2]s logs -f front               what a service prints
  %[2]s get                         the resources

Change weight: 90 and 10 in %[3]s, then, while the load runs:

  %[2]s apply -f %[3]s

Ctrl-C drains and ends everything.

`, port, d.command(), filepath.Join(d.files, "traffic.yaml"))
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func terminal(f *os.File) bool {
	// Only a terminal has a window's size.
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}
