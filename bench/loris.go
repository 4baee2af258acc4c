package main

import (
	"fmt"
	"time"
)

// startSlow starts the slow clients and waits until they are all connected.
func (b *bench) startSlow(port int) (*process, error) {
	p, err := b.start(loadCore(), "loris", b.loadProgram, []string{"GOMAXPROCS=1"}, "loris", "-addr", fmt.Sprintf("127.0.0.1:%d", port), "-n", fmt.Sprint(b.slow))
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(20 * time.Second)
	for p.said() != "ready" {
		select {
		case <-p.done:
			return nil, fmt.Errorf("the slow clients ended: %s", p.said())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.stop()
			return nil, fmt.Errorf("the slow clients are not ready: %s", p.said())
		}
	}
	return p, nil
}
