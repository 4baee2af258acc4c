package proxy_test

import (
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// h2spec finds the program that checks a server against RFC 9113 and RFC 7541.
func h2spec(t *testing.T) string {
	if p, err := exec.LookPath("h2spec"); err == nil {
		return p
	}
	dirs := []string{filepath.Join("..", "..", ".cache")}
	if c := os.Getenv("OUTRIGGER_CACHE"); c != "" {
		dirs = append(dirs, c)
	}
	for _, d := range dirs {
		if p, err := filepath.Abs(filepath.Join(d, "bin", "h2spec")); err == nil {
			if _, err := os.Stat(p); err == nil {
				return p
			}
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("h2spec is not installed: run tools/deps.sh")
	}
	t.Skip("h2spec is not installed: run tools/deps.sh")
	return ""
}

func TestH2spec(t *testing.T) {
	bin := h2spec(t)
	m := newMesh(t, snapshot.HTTP1, nil, backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "an answer with a body")
	}))
	m.http.Codec = snapshot.HTTP2 // a listener of both protocols answers a preface that is none as HTTP/1.1
	if err := m.Apply(m.snap); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(m.Addr("http"))
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	out, runErr := exec.CommandContext(t.Context(), bin, "-h", host, "-p", port, "-j", report, "-o", "3").CombinedOutput()
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var r struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Package string    `xml:"package,attr"`
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range r.Suites {
		for _, c := range s.Cases {
			if n++; c.Failure != nil || c.Error != nil {
				t.Errorf("%s: %s", c.Package, c.Name)
			}
		}
	}
	if runErr != nil {
		t.Errorf("%v\n%s", runErr, out)
	}
	if n < 140 {
		t.Errorf("only %d cases ran\n%s", n, out)
	}
}
