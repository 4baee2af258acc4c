package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write docs/reference/cli.md anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"outrigger": main})
}

// TestScripts runs the command line where no mesh is needed; with one it is tested in test/e2e.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(e *testscript.Env) error {
		// Programs that are there and are never run: everything is refused before.
		for _, p := range []string{runnerName, sidecarName} {
			if err := os.WriteFile(e.WorkDir+"/"+p, []byte("#!/bin/false\n"), 0o755); err != nil {
				return err
			}
		}
		e.Setenv("OUTRIGGER_BIN_DIR", e.WorkDir)
		return nil
	}})
}

// TestReference: the page says what the commands say.
func TestReference(t *testing.T) {
	t.Setenv("OUTRIGGER_STATE", "")
	const file = "../../docs/reference/cli.md"
	var out, errOut bytes.Buffer
	if code := run(context.Background(), []string{"reference"}, strings.NewReader(""), &out, &errOut); code != exitDone {
		t.Fatalf("exit %d: %s", code, errOut.String())
	}
	if *update {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, out.Bytes()) {
		t.Errorf("%s is not what the commands say: go test ./cmd/outrigger -run Reference -update", file)
	}
}
