package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
	"github.com/outrigger-mesh/outrigger/sidecar/console"
	"github.com/outrigger-mesh/outrigger/sidecar/xdsclient"
)

// Names of the console's sockets among the runner's; no listener of a configuration has one of them.
const (
	consoleName = "sidecar/console"
	adminName   = "sidecar/admin"
)

// openConsole serves the console on its Unix socket, and on the bootstrap's admin address where that is another. A
// file's owner is asked for nothing; on TCP, where any program and any web page can knock, a token is.
func (s *sidecar) openConsole(ctx context.Context, socks sockets, f flags, boot *xdsclient.Bootstrap, o console.Options, wg *sync.WaitGroup) error {
	path := f.console
	if path == "" && boot.AdminNetwork == "unix" {
		path = boot.AdminAddress
	}
	if path != "" {
		l, _, err := consoleListener(ctx, socks, consoleName, "unix", path)
		if err != nil {
			return err
		}
		s.serveConsole(l, console.New(o), wg)
	}
	if boot.AdminNetwork != "tcp" {
		return nil
	}
	token, err := console.Token(f.token)
	if err != nil {
		return fmt.Errorf("%w; -admin-token FILE names another place", err)
	}
	l, addr, err := consoleListener(ctx, socks, adminName, "tcp", boot.AdminAddress)
	if err != nil {
		return err
	}
	s.log.Info("the console answers those who know the token", "address", addr, "token", f.token)
	s.serveConsole(l, console.Guard(console.Pages(o), token), wg)
	return nil
}

func (s *sidecar) serveConsole(l net.Listener, h http.Handler, wg *sync.WaitGroup) {
	web := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: h}
	s.webs = append(s.webs, web)
	wg.Go(func() {
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the console ends", "error", err)
		}
	})
}

func (s *sidecar) closeConsole() {
	for _, w := range s.webs {
		_ = w.Close()
	}
}

// consoleListener opens one address. With a runner it is the runner's socket too: a successor opens it while we serve.
func consoleListener(ctx context.Context, socks sockets, name, network, address string) (net.Listener, string, error) {
	if _, own := socks.(ownSockets); own {
		if network == "unix" {
			l, err := unixsock.Listen(address) // which removes its path at the end
			return l, address, err
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, network, address)
		if err != nil {
			return nil, "", err
		}
		return l, l.Addr().String(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	file, addr, err := socks.Listen(ctx, name, network, address)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = file.Close() }()
	l, err := net.FileListener(file)
	return l, addr, err
}
