package interop

import (
	"encoding/xml"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// TestH2spec runs h2spec (RFC 9113 and RFC 7541, 145 cases) against a sidecar, through it against a server of HTTP/1.1
// and one of HTTP/2.
func TestH2spec(t *testing.T) {
	server := goServer(t)
	for name, last := range map[string]string{"to HTTP/1.1": http1, "to HTTP/2": http2} {
		t.Run(name, func(t *testing.T) {
			addr := harness.FreeAddr(t)
			// A listener of both protocols answers a preface that is none as HTTP/1.1.
			start(t, raced(t), bootstrap([]string{listen("front", addr, "server", "codec_type: HTTP2")}, []string{cluster("server", server, last)}))
			h2spec(t, addr, "/hello")
		})
	}
}

// h2spec runs all of h2spec against addr.
func h2spec(t *testing.T, addr, path string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	out, runErr := exec.CommandContext(t.Context(), harness.Need(t, "h2spec"), "-h", host, "-p", port, "-P", path, "-j", report, "-o", "5").CombinedOutput()
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var r struct {
		Suites []struct {
			Cases []struct {
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
