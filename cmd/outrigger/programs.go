package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// Names of the programs that stand beside this one.
const (
	sidecarName = "outrigger-sidecar"
	runnerName  = "outrigger-runner"
)

// binDir is where the other programs are: $OUTRIGGER_BIN_DIR, else beside this one.
func binDir() string {
	if d := os.Getenv("OUTRIGGER_BIN_DIR"); d != "" {
		if abs, err := filepath.Abs(d); err == nil {
			return abs
		}
		return d
	}
	exe, err := os.Executable()
	if err != nil {
		return "."
	}
	return filepath.Dir(exe)
}

func runnerProgram() string  { return filepath.Join(binDir(), runnerName) }
func sidecarProgram() string { return filepath.Join(binDir(), sidecarName) }

// checkPrograms returns why the other programs cannot be run.
func checkPrograms() error {
	for _, p := range []string{runnerProgram(), sidecarProgram()} {
		info, err := os.Stat(p)
		switch {
		case err != nil:
			return fmt.Errorf("%s is not there: it belongs beside outrigger, or in $OUTRIGGER_BIN_DIR", p)
		case info.IsDir() || info.Mode()&0o111 == 0:
			return fmt.Errorf("%s cannot be executed", p)
		}
	}
	return nil
}
