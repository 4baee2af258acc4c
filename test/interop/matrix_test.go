package interop

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// The servers of the matrix answer the same, each with what its language brings (testdata/peers, goServer):
//
//	/hello       "hello"
//	/echo        the body
//	/large?n=N   N bytes with their length; HEAD: the length alone
//	/chunked?n=N N chunks of 1000 bytes
//	/trailers    "body", and the trailer x-sum: 42
//	/ws          a WebSocket that echoes
//	/count       how many of the others were served
//
// The clients do each case as often as this says, over one connection where there is one to keep, and tell how often
// the answer was right.
var want = map[string]int{
	"hello": 20, "echo": 10, "chunkedecho": 10, "chunked": 10, "large": 2, "head": 5, "trailers": 10, "expect": 5, "websocket": 10,
}

const large = 4 << 20

// target is a server, and how the sidecars reach it.
type target struct {
	name          string
	addr          string
	between, last string   // protocols between the sidecars, and to the server
	lacks         []string // cases that this server does not serve
}

// peer is a client and what it does not do.
type peer struct {
	name  string
	lacks []string
	// run does the cases of each target, "NAME=HOST:PORT/CASE,CASE…", and returns lines "NAME/CASE COUNT".
	run func(t *testing.T, targets []string) string
}

// TestMatrix lets clients and servers of several languages speak with each other through two sidecars. Each cell counts
// what the client found right, and at the end each server says how often it was asked: not once more, not once less.
func TestMatrix(t *testing.T) {
	targets := servers(t)
	var out, in, outClusters, inClusters []string
	entry := map[string]string{}
	for _, k := range targets {
		mid := harness.FreeAddr(t)
		entry[k.name] = harness.FreeAddr(t)
		in = append(in, listen(k.name, mid, k.name, "http2_protocol_options: {allow_connect: true}")) // WebSocket between sidecars
		inClusters = append(inClusters, cluster(k.name, k.addr, k.last))
		out = append(out, listen(k.name, entry[k.name], k.name))
		outClusters = append(outClusters, cluster(k.name, mid, k.between))
	}
	start(t, raced(t), bootstrap(in, inClusters))
	start(t, raced(t), bootstrap(out, outClusters))

	asked := map[string]int{}
	for _, p := range peers(t) {
		var args []string
		expected := map[string]int{}
		for _, k := range targets {
			var cases []string
			for _, c := range slices.Sorted(maps.Keys(want)) {
				if slices.Contains(k.lacks, c) || slices.Contains(p.lacks, c) {
					continue
				}
				cases = append(cases, c)
				expected[k.name+"/"+c] = want[c]
				if asked[k.name] += want[c]; c == "websocket" {
					asked[k.name] -= want[c] - 1
				}
			}
			args = append(args, k.name+"="+entry[k.name]+"/"+strings.Join(cases, ","))
		}
		t.Run(p.name, func(t *testing.T) {
			said := p.run(t, args)
			got := map[string]string{}
			for line := range strings.Lines(said) {
				cell, count, _ := strings.Cut(strings.TrimSpace(line), " ")
				got[cell] = count
			}
			for cell, n := range expected {
				if got[cell] != strconv.Itoa(n) {
					t.Errorf("%s: %q, want %d", cell, got[cell], n)
				}
			}
			if len(got) != len(expected) {
				t.Errorf("%d cells, want %d:\n%s", len(got), len(expected), said)
			}
			t.Logf("%d cells", len(expected))
		})
	}
	if t.Failed() {
		return // what failed may have asked less
	}
	for _, k := range targets {
		name := strings.TrimSuffix(k.name, "2") // one process serves both protocols
		if _, body := fetch(t, http.DefaultClient, "http://"+find(targets, name).addr+"/count"); body != strconv.Itoa(asked[name]+asked[name+"2"]) {
			t.Errorf("%s was asked %s times, the clients asked %d times", name, body, asked[name]+asked[name+"2"])
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func find(ts []target, name string) target {
	return ts[slices.IndexFunc(ts, func(k target) bool { return k.name == name })]
}

// servers starts all servers.
func servers(t *testing.T) []target {
	t.Helper()
	dir := filepath.Join("testdata", "peers")
	goAddr := goServer(t)
	python, node, node2, java := harness.FreeAddr(t), harness.FreeAddr(t), harness.FreeAddr(t), harness.FreeAddr(t)
	run(t, harness.Need(t, "python3"), filepath.Join(dir, "server.py"), portOf(python))
	run(t, harness.Need(t, "node"), filepath.Join(dir, "server.js"), portOf(node), portOf(node2))
	run(t, harness.Need(t, "java"), javaFlags(filepath.Join(dir, "Server.java"), portOf(java))...)
	for _, a := range []string{python, node, node2, java} {
		accepts(t, a)
	}
	return []target{
		{"go", goAddr, http1, http1, nil},
		{"go2", goAddr, http2, http2, []string{"websocket"}},
		{"python", python, http1, http1, []string{"websocket"}},
		{"node", node, http2, http1, nil},
		{"node2", node2, http2, http2, []string{"websocket"}},
		{"java", java, http2, http1, []string{"websocket", "trailers"}},
	}
}

// javaFlags make a short program start quickly.
func javaFlags(args ...string) []string {
	return append([]string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"}, args...)
}

func portOf(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// peers are all clients.
func peers(t *testing.T) []peer {
	t.Helper()
	dir := filepath.Join("testdata", "peers")
	program := func(name string, args ...string) func(*testing.T, []string) string {
		return func(t *testing.T, targets []string) string {
			return say(t, harness.Need(t, name), append(slices.Clone(args), targets...)...)
		}
	}
	each := func(do func(t *testing.T, addr, name string) (int, error)) func(*testing.T, []string) string {
		return func(t *testing.T, targets []string) string {
			var out strings.Builder
			for _, k := range targets {
				name, rest, _ := strings.Cut(k, "=")
				addr, cases, _ := strings.Cut(rest, "/")
				for c := range strings.SplitSeq(cases, ",") {
					n, err := do(t, addr, c)
					if err != nil {
						fmt.Fprintf(&out, "%s/%s failed: %v\n", name, c, err)
						continue
					}
					fmt.Fprintf(&out, "%s/%s %d\n", name, c, n)
				}
			}
			return out.String()
		}
	}
	node := []string{filepath.Join(dir, "client.js"), "http1"}
	if out := say(t, harness.Need(t, "node"), "-p", "process.allowedNodeEnvironmentFlags.has('--experimental-websocket')"); strings.TrimSpace(out) == "true" {
		node = append([]string{"--experimental-websocket"}, node...)
	}
	return []peer{
		{"go1", []string{"websocket"}, goClient(false)},
		{"go2", []string{"websocket", "expect"}, goClient(true)},
		{"python", nil, program("python3", filepath.Join(dir, "client.py"))},
		{"node1", nil, program("node", node...)},
		{"node2", []string{"websocket", "expect"}, program("node", filepath.Join(dir, "client.js"), "http2")},
		{"java1", []string{"trailers"}, program("java", javaFlags(filepath.Join(dir, "Client.java"), "HTTP_1_1")...)},
		{"java2", []string{"trailers"}, program("java", javaFlags(filepath.Join(dir, "Client.java"), "HTTP_2")...)}, // asks for h2c, takes HTTP/1.1
		{"curl1", []string{"websocket"}, each(curl("--http1.1"))},
		{"curl2", []string{"websocket", "expect"}, each(curl("--http2-prior-knowledge"))},
		{"python2", []string{"websocket", "expect"}, func(t *testing.T, targets []string) string {
			return say(t, installed(t, "venv/bin/python"), append([]string{filepath.Join(dir, "client_h2.py")}, targets...)...)
		}},
		{"nghttp", []string{"websocket", "expect", "chunkedecho"}, each(nghttp)},
	}
}

// installed is what tools/peers/install.sh brought.
func installed(t *testing.T, name string) string {
	t.Helper()
	cache := os.Getenv("OUTRIGGER_CACHE")
	if cache == "" {
		cache = filepath.Join(harness.Binaries(t).Root, ".cache")
	}
	p := filepath.Join(cache, "peers", name)
	if _, err := os.Stat(p); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v (tools/peers/install.sh)", err)
		}
		t.Skipf("%v (tools/peers/install.sh)", err)
	}
	return p
}

// say runs a client and returns what it says.
func say(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v\n%s", filepath.Base(program), err, stderr.String())
	}
	return string(out)
}

// goServer serves HTTP/1.1 and HTTP/2 on one port.
func goServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served atomic.Int64
	s := &http.Server{Protocols: &http.Protocols{}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		if r.URL.Path == "/count" {
			fmt.Fprint(w, served.Load())
			return
		}
		served.Add(1)
		switch r.URL.Path {
		case "/hello":
			if _, err := io.Copy(io.Discard, r.Body); err != nil { // an answer to half a request would be one of its own
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(w, "hello")
		case "/echo":
			b, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(b)
		case "/large":
			w.Header().Set("Content-Length", strconv.Itoa(n))
			_, _ = w.Write(bytes.Repeat([]byte("x"), n))
		case "/chunked":
			for range n {
				_, _ = w.Write(bytes.Repeat([]byte("x"), 1000))
				_ = http.NewResponseController(w).Flush()
			}
		case "/trailers":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			_ = http.NewResponseController(w).Flush() // else it has a length, at which curl reads no further
			w.Header().Set("X-Sum", "42")
		case "/ws":
			echoFrames(w, r)
		default:
			http.NotFound(w, r)
		}
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// echoFrames is a WebSocket that echoes frames of less than 126 bytes, as the clients send them.
func echoFrames(w http.ResponseWriter, r *http.Request) {
	key := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer c.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(key[:]))
	_ = rw.Flush()
	for {
		var head [6]byte
		if _, err := io.ReadFull(rw, head[:]); err != nil {
			return
		}
		text := make([]byte, head[1]&127)
		if _, err := io.ReadFull(rw, text); err != nil {
			return
		}
		for i := range text {
			text[i] ^= head[2+i&3]
		}
		_, _ = rw.Write(append([]byte{head[0], byte(len(text))}, text...))
		if _ = rw.Flush(); head[0]&15 == 8 {
			return
		}
	}
}

// goClient is net/http.
func goClient(h2 bool) func(t *testing.T, targets []string) string {
	return func(t *testing.T, targets []string) string {
		var out strings.Builder
		for _, k := range targets {
			name, rest, _ := strings.Cut(k, "=")
			addr, cases, _ := strings.Cut(rest, "/")
			tr := &http.Transport{Protocols: &http.Protocols{}, ExpectContinueTimeout: time.Minute}
			tr.Protocols.SetHTTP1(!h2)
			tr.Protocols.SetUnencryptedHTTP2(h2)
			for c := range strings.SplitSeq(cases, ",") {
				n := 0
				for i := range want[c] {
					if goCall(t, tr, "http://"+addr, c, i) {
						n++
					}
				}
				fmt.Fprintf(&out, "%s/%s %d\n", name, c, n)
			}
			tr.CloseIdleConnections()
		}
		return out.String()
	}
}

func goCall(t *testing.T, tr *http.Transport, base, name string, i int) bool {
	method, path, body, reused, continued := http.MethodGet, "/"+name, []byte(nil), i == 0, false
	switch name {
	case "echo", "chunkedecho", "expect":
		method, path, body = http.MethodPost, "/echo", bytes.Repeat([]byte{byte('a' + i)}, 5000)
	case "chunked":
		path = "/chunked?n=7"
	case "head":
		method, path = http.MethodHead, "/large?n=12345"
	case "large":
		if path = "/large?n=" + strconv.Itoa(large); i > 0 {
			method, path, body = http.MethodPost, "/echo", bytes.Repeat([]byte("0123456789abcde\n"), large/16)
		}
	}
	var r io.Reader
	if r = bytes.NewReader(body); name == "chunkedecho" {
		r = io.MultiReader(r) // of no known length
	}
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { reused = reused || c.Reused }, Got100Continue: func() { continued = true },
	})
	req, err := http.NewRequestWithContext(ctx, method, base+path, r)
	if err != nil {
		t.Error(err)
		return false
	}
	if name == "expect" {
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Error(err)
		return false
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%s: %s %v", path, resp.Status, err)
		return false
	}
	ok := reused && (name != "expect" || continued)
	switch {
	case method == http.MethodPost:
		return ok && bytes.Equal(got, body)
	case name == "hello":
		return ok && string(got) == "hello"
	case name == "chunked":
		return ok && len(got) == 7000
	case name == "head":
		return ok && len(got) == 0 && resp.ContentLength == 12345
	case name == "trailers":
		return ok && string(got) == "body" && resp.Trailer.Get("X-Sum") == "42"
	}
	return ok && len(got) == large
}

// curl does a case with one call of curl, which tells of each transfer how many connections it opened.
func curl(protocol string) func(t *testing.T, addr, name string) (int, error) {
	return func(t *testing.T, addr, name string) (int, error) {
		n, calls := want[name], 1
		if protocol != "--http1.1" && name != "large" { // curl 7.88 cannot call twice over a connection of HTTP/2 without TLS
			n, calls = 1, want[name]
		}
		args := []string{"-sS", protocol, "--max-time", "60", "-w", "\n%{http_code} %{num_connects}\n"}
		path, found := fmt.Sprintf("/hello?n=[1-%d]", n), "hello"
		switch name {
		case "hello":
		case "echo":
			path, found = fmt.Sprintf("/echo?n=[1-%d]", n), "0123456789"
			args = append(args, "--data-binary", found)
		case "chunkedecho":
			path, found = fmt.Sprintf("/echo?n=[1-%d]", n), "0123456789"
			args = append(args, "--data-binary", found, "-H", "Transfer-Encoding: chunked")
			if protocol != "--http1.1" {
				args = args[:len(args)-2] // HTTP/2 has no other
			}
		case "expect":
			path, found = fmt.Sprintf("/echo?n=[1-%d]", n), "0123456789"
			args = append(args, "--data-binary", found, "-H", "Expect: 100-continue", "--expect100-timeout", "60")
		case "chunked":
			path, found = strings.Repeat("http://"+addr+"/chunked?n=7 ", n), strings.Repeat("x", 7000)
		case "head":
			path, found = strings.Repeat("http://"+addr+"/large?n=12345 ", n), "content-length: 12345"
			args = append(args, "-I")
		case "trailers":
			path, found = fmt.Sprintf("/trailers?n=[1-%d]", n), "x-sum: 42"
			args = append(args, "-D", "-", "-H", "TE: trailers")
		case "large":
			return largeBy(t, addr, func(out string, post string, url string) error {
				more := []string{"-o", out, url}
				if post != "" {
					more = append(more, "--data-binary", "@"+post)
				}
				said := say(t, harness.Need(t, "curl"), append(args, more...)...)
				if strings.TrimSpace(said) != "200 1" {
					return fmt.Errorf("%s", said)
				}
				return nil
			})
		}
		if strings.HasPrefix(path, "http") {
			args = append(args, strings.Fields(path)...)
		} else {
			args = append(args, "http://"+addr+path)
		}
		right := 0
		for range calls {
			said := strings.ToLower(say(t, harness.Need(t, "curl"), args...))
			if good, opened := strings.Count(said, "\n200 "), strings.Count(said, "\n200 1\n"); good != n || opened != 1 {
				return 0, fmt.Errorf("%d of %d were good, over %d connections: %.600s", good, n, opened, said)
			}
			right += strings.Count(said, found)
		}
		return right, nil
	}
}

// nghttp does a case with one call of nghttp, all requests at once over one connection.
func nghttp(t *testing.T, addr, name string) (int, error) {
	n := want[name]
	args, path, found := []string{"-m", strconv.Itoa(n)}, "/"+name, "hello"
	switch name {
	case "echo":
		file := filepath.Join(t.TempDir(), "body")
		if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
			return 0, err
		}
		args, found = append(args, "-d", file), "0123456789"
	case "chunked":
		path, found = "/chunked?n=7", strings.Repeat("x", 7000)
	case "head":
		args, path, found = append(args, "-v", "-H", ":method: HEAD"), "/large?n=12345", "content-length: 12345"
	case "trailers":
		args, found = append(args, "-v", "-H", "te: trailers"), "x-sum: 42"
	case "large":
		return largeBy(t, addr, func(out, post, url string) error {
			var args []string
			if post != "" {
				args = []string{"-d", post}
			}
			return os.WriteFile(out, []byte(say(t, harness.Need(t, "nghttp"), append(args, url)...)), 0o600)
		})
	}
	return strings.Count(say(t, harness.Need(t, "nghttp"), append(args, "http://"+addr+path)...), found), nil
}

// largeBy gets a large body, and sends one.
func largeBy(t *testing.T, addr string, do func(out, post, url string) error) (int, error) {
	dir, n := t.TempDir(), 0
	out, body := filepath.Join(dir, "out"), filepath.Join(dir, "body")
	if err := os.WriteFile(body, bytes.Repeat([]byte("0123456789abcde\n"), large/16), 0o600); err != nil {
		return 0, err
	}
	for _, c := range []struct {
		post, path string
		want       []byte
	}{{"", "/large?n=" + strconv.Itoa(large), bytes.Repeat([]byte("x"), large)}, {body, "/echo", bytes.Repeat([]byte("0123456789abcde\n"), large/16)}} {
		if err := do(out, c.post, "http://"+addr+c.path); err != nil {
			return n, err
		}
		got, err := os.ReadFile(out)
		if err != nil {
			return n, err
		}
		if !bytes.Equal(got, c.want) {
			return n, fmt.Errorf("%s: %d bytes, not those of the body", c.path, len(got))
		}
		n++
	}
	return n, nil
}
