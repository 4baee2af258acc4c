package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// profile takes a CPU profile of a sidecar from its console while it is measured. The function returned waits for its end.
func (b *bench) profile(c *benchCase, p proxy) (wait func()) {
	console := filepath.Join(b.dir, "console.sock") // beside the bootstrap
	if _, err := os.Stat(console); b.profiles == "" || p.process == nil || err != nil {
		return func() {}
	}
	done := make(chan error, 1)
	go func() {
		time.Sleep(b.warm)
		done <- b.fetchProfile(console, filepath.Join(b.profiles, c.id+".pprof"))
	}()
	return func() {
		if err := <-done; err != nil {
			progress("profile of %s: %v", c.id, err)
		}
	}
}

func (b *bench) fetchProfile(console, file string) (err error) {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", console)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(fmt.Sprintf("http://sidecar/debug/pprof/profile?seconds=%d", max(1, int(b.time.Seconds()))))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
