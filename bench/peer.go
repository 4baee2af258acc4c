package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// peer is a proxy under test. All run one worker thread.
type peer struct {
	name, program, config string
	args                  func(config string) []string
	env                   []string
}

func (b *bench) peer(name string) peer {
	switch name {
	case "outrigger":
		return peer{
			name: name, program: filepath.Join(b.bin, "outrigger-sidecar"), config: "envoy.yaml", env: []string{"GOMAXPROCS=1"},
			args: func(c string) []string { return []string{"-c", c} },
		}
	case "envoy":
		return peer{
			name: name, program: "envoy", config: "envoy.yaml",
			args: func(c string) []string {
				return []string{"-c", c, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"}
			},
		}
	case "haproxy":
		return peer{name: name, program: "haproxy", config: "haproxy.cfg", args: func(c string) []string { return []string{"-db", "-q", "-f", c} }}
	case "nginx":
		return peer{name: name, program: "nginx", config: "nginx.conf", args: func(c string) []string { return []string{"-c", c} }}
	default:
		return peer{name: name, program: "nghttpx", config: "nghttpx.conf", args: func(c string) []string { return []string{"--conf", c} }}
	}
}

// listeners are the placeholders of ports in the configurations, by the listeners' names.
func listeners() []string { return []string{"http", "grpc", "tls", "tcp", "policy", "grpc-policy"} }

func placeholder(listener string) string {
	return "@" + strings.ToUpper(strings.ReplaceAll(listener, "-", "")) + "@"
}

// errNotServed says that Outrigger refuses the configuration of a case.
var errNotServed = errors.New("not served")

// proxy is a peer that runs.
type proxy struct {
	*process
	port int
}

// startPeer starts a peer and waits until it listens. cores is where; env is added to the peer's own.
func (b *bench) startPeer(e entrant, cores string, env ...string) (proxy, error) {
	if e.peer == "direct" {
		return proxy{port: b.backendPort}, nil
	}
	p := b.peer(e.peer)
	config, port, err := b.configure(p, e.listener)
	if err != nil {
		return proxy{}, err
	}
	run, err := b.start(cores, p.name, p.program, append(slices.Clone(p.env), env...), p.args(config)...)
	if err != nil {
		return proxy{}, err
	}
	if err := run.accepts(port); err != nil {
		run.stop()
		if e.peer == "outrigger" && strings.Contains(run.said(), "the sidecar cannot start") {
			return proxy{}, fmt.Errorf("%w: %s", errNotServed, run.said())
		}
		return proxy{}, fmt.Errorf("%s: %w", e.name(), err)
	}
	time.Sleep(b.settle)
	return proxy{run, port}, nil
}

// configure fills a peer's configuration in, with ports of its own.
func (b *bench) configure(p peer, listener string) (path string, port int, err error) {
	raw, err := os.ReadFile(filepath.Join(b.peers, p.config))
	if err != nil {
		return "", 0, err
	}
	ports, err := freePorts(len(listeners()))
	if err != nil {
		return "", 0, err
	}
	text := b.fill(string(raw))
	for i, l := range listeners() {
		text = strings.ReplaceAll(text, placeholder(l), strconv.Itoa(ports[i]))
		if l == listener {
			port = ports[i]
		}
	}
	if strings.HasSuffix(p.config, ".yaml") {
		if text, err = onlyListener(text, listener); err != nil {
			return "", 0, fmt.Errorf("%s: %w", p.config, err)
		}
	}
	path = filepath.Join(b.dir, p.name+"-"+p.config)
	return path, port, os.WriteFile(path, []byte(text), 0o644)
}

func (b *bench) fill(text string) string {
	return strings.NewReplacer("@DIR@", b.dir, "@BACKEND@", strconv.Itoa(b.backendPort), "@GRPCBACKEND@", strconv.Itoa(b.grpcPort),
		"@CA@", filepath.Join(b.dir, "ca.pem"), "@CERT@", filepath.Join(b.dir, "client.pem"), "@KEY@", filepath.Join(b.dir, "client.key")).Replace(text)
}

// onlyListener leaves one listener in an Envoy bootstrap: a case does not depend on what others need.
func onlyListener(text, name string) (string, error) {
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return "", err
	}
	static, _ := doc["static_resources"].(map[string]any)
	all, _ := static["listeners"].([]any)
	kept := slices.DeleteFunc(all, func(l any) bool { m, _ := l.(map[string]any); return m["name"] != name })
	if len(kept) != 1 {
		return "", fmt.Errorf("no listener %q", name)
	}
	static["listeners"] = kept
	out, err := json.MarshalIndent(doc, "", " ")
	return string(out), err
}

// missing lists the programs that the chosen cases need and that are not there.
func (b *bench) missing(cases []*benchCase) error {
	var out []string
	need := map[string]bool{"nginx": true, "taskset": true, b.loadProgram: true}
	for _, c := range cases {
		for _, e := range b.entrants(c) {
			if e.peer != "direct" {
				need[b.peer(e.peer).program] = true
			}
		}
	}
	for program := range need {
		if _, err := exec.LookPath(program); err != nil {
			out = append(out, program)
		}
	}
	if len(out) > 0 {
		slices.Sort(out)
		return fmt.Errorf("missing: %s (make test-deps installs the peers, bench/run.sh builds the rest)", strings.Join(out, ", "))
	}
	return nil
}
