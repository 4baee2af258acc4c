// Package process is what the shop's services have in common: where they listen, what they are called, and how
// they end. A service's own business does not belong here. Nothing in it is particular to Outrigger: a program
// that reads $PORT and ends on SIGTERM is all that the mesh asks for.
package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// Grace is how long calls in progress may take once the process was told to end.
const Grace = 8 * time.Second

// Listen opens the loopback port that $PORT names; without it, a port that the kernel chooses.
func Listen() (net.Listener, error) {
	port := os.Getenv("PORT")
	if port == "" {
		port = "0"
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return nil, fmt.Errorf("listening on $PORT: %w", err)
	}
	return l, nil
}

// Instance names this process in answers: the mesh's name for it, else its pid.
func Instance() string {
	if id := os.Getenv("OUTRIGGER_INSTANCE"); id != "" {
		return fmt.Sprintf("%s/%d", id, os.Getpid())
	}
	return fmt.Sprintf("pid/%d", os.Getpid())
}

// UntilTold returns a context that ends on SIGTERM or SIGINT.
func UntilTold() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
}

// URL returns where the mesh serves a service for us: $OUTRIGGER_<SERVICE>_URL.
func URL(service string) string { return os.Getenv(variable(service) + "_URL") }

// Addr returns the same as "host:port": $OUTRIGGER_<SERVICE>_ADDR.
func Addr(service string) string { return os.Getenv(variable(service) + "_ADDR") }

func variable(service string) string {
	return "OUTRIGGER_" + strings.ToUpper(strings.ReplaceAll(service, "-", "_"))
}

// ServeHTTP serves h, HTTP/1.1 and HTTP/2 without TLS, until SIGTERM; then it finishes what is in progress.
func ServeHTTP(h http.Handler) error {
	ctx, cancel := UntilTold()
	defer cancel()
	l, err := Listen()
	if err != nil {
		return err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Printf("listening on %s\n", l.Addr())
	select {
	case err := <-failed:
		return fmt.Errorf("serving HTTP: %w", err)
	case <-ctx.Done():
	}
	fmt.Println("told to end; finishing calls in progress")
	grace, stop := context.WithTimeout(context.Background(), Grace)
	defer stop()
	if err := srv.Shutdown(grace); err != nil {
		return fmt.Errorf("finishing calls in progress: %w", errors.Join(err, srv.Close()))
	}
	return nil
}

// Exit ends the process: with 1 and the error on standard error, or with 0 where there is none.
func Exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
