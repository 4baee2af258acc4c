package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/supervisor/logfile"
)

// ReadyEnv names the descriptor to which a launched runner writes one line of JSON: {} when its control socket answers, else
// {"error": why}.
const ReadyEnv = "OUTRIGGER_RUNNER_READY"

// Report is the line that a launched runner writes.
type Report struct {
	Error string `json:"error,omitempty"`
}

// Launch starts the runner program with the spec at specPath, which has been saved, and returns when its control
// socket answers and its listening sockets are open. The runner has a session of its own and survives the caller; its own output goes to runner.log. If ctx
// ends first, the runner is killed.
//
// The caller takes the runner's exit status if it still lives then, so no zombie stays.
func Launch(ctx context.Context, program, specPath string) (*Client, error) {
	spec, err := LoadSpec(specPath)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Client, error) {
		return nil, fmt.Errorf("launch the runner of %s: %w", spec.Instance, err)
	}
	if program, err = filepath.Abs(program); err != nil {
		return fail(err)
	}
	if specPath, err = filepath.Abs(specPath); err != nil {
		return fail(err)
	}
	logs := filepath.Join(spec.Dir, LogDir)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return fail(err)
	}
	out, err := os.OpenFile(filepath.Join(logs, RunnerLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fail(err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fail(err)
	}
	defer null.Close()
	read, write, err := outputPipe()
	if err != nil {
		return fail(err)
	}
	defer read.Close()
	p, err := os.StartProcess(program, []string{program, "-spec", specPath}, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=1", ReadyEnv + "=3"},
		Files: []*os.File{null, out, out, write}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	_ = write.Close()
	if err != nil {
		return fail(err)
	}
	go func() { _, _ = p.Wait() }()
	defer context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Unix(1, 0)) })()
	line, err := bufio.NewReader(read).ReadBytes('\n')
	if ctx.Err() != nil {
		_ = p.Kill()
		return fail(ctx.Err())
	}
	var rep Report
	if err == nil {
		err = json.Unmarshal(line, &rep)
	}
	if err != nil {
		_ = p.Kill()
		var said strings.Builder
		_ = logfile.Tail(filepath.Join(logs, RunnerLog), 5, &said)
		return fail(fmt.Errorf("it ended before it answered: %s", strings.TrimSpace(said.String())))
	}
	if rep.Error != "" {
		return fail(errors.New(rep.Error))
	}
	return &Client{dir: spec.Dir}, nil
}
