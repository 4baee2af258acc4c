package resource

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/testkit"
)

const tlsSet = `
apiVersion: outrigger.dev/v1
kind: Gateway
metadata: {name: public}
spec:
  listen: "127.0.0.1:8443"
  tls: {certificate: server.pem, key: server.key, clientCa: ca.pem}
  routes: [{service: api}]
---
apiVersion: outrigger.dev/v1
kind: External
metadata: {name: api}
spec:
  endpoints: [{address: "api.example:443"}]
  tls: {ca: ca.pem, certificate: client.pem, key: client.key}
`

// TestTLSFiles reads certificates where a set is applied, and says of each what is wrong with it.
func TestTLSFiles(t *testing.T) {
	ca := testkit.NewCA(t, "ca")
	server, client, old := ca.Issue(t, time.Time{}, "localhost"), ca.Issue(t, time.Time{}, "me"), ca.Issue(t, time.Now().Add(-time.Hour), "old")
	good := map[string][]byte{
		"server.pem": server.PEM, "server.key": server.KeyPEM, "client.pem": client.PEM, "client.key": client.KeyPEM, "ca.pem": ca.PEM,
	}
	for name, c := range map[string]struct {
		file string
		data []byte
		want []string
	}{
		"good":           {},
		"missing":        {"server.pem", nil, []string{"a.yaml:6: spec.tls.certificate: /mesh/server.pem: file does not exist"}},
		"no PEM":         {"ca.pem", []byte("hello"), []string{"a.yaml:6: spec.tls.clientCa: /mesh/ca.pem holds no certificate in PEM", "a.yaml:14: spec.tls.ca: /mesh/ca.pem holds no certificate"}},
		"a cert, no key": {"server.key", server.PEM, []string{"a.yaml:6: spec.tls.key: /mesh/server.key holds no private key in PEM"}},
		"another's key":  {"client.key", server.KeyPEM, []string{"a.yaml:14: spec.tls.key: private key does not match public key"}},
		"ended":          {"server.pem", old.PEM, []string{"holds a certificate that ended at", "private key does not match"}},
		"encrypted":      {"client.key", []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), []string{"client.key is encrypted"}},
	} {
		t.Run(name, func(t *testing.T) {
			set, bad := Parse("a.yaml", []byte(strings.TrimPrefix(tlsSet, "\n")))
			if len(bad) > 0 {
				t.Fatal(bad)
			}
			ResolveFiles(set, "/mesh")
			v := CheckHost(set, Lookup{ReadFile: func(name string) ([]byte, error) {
				base := filepath.Base(name)
				if base == c.file {
					if c.data == nil {
						return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
					}
					return c.data, nil
				}
				return good[base], nil
			}})
			if len(v) != len(c.want) {
				t.Fatalf("got %v, want %v", v, c.want)
			}
			for i, w := range c.want {
				if !strings.Contains(v[i].String(), w) {
					t.Errorf("got %q, want %q", v[i].String(), w)
				}
			}
		})
	}
}

// TestTLSFields refuses what contradicts itself.
func TestTLSFields(t *testing.T) {
	head := "apiVersion: outrigger.dev/v1\nkind: "
	for text, want := range map[string]string{
		"Gateway\nmetadata: {name: a}\nspec: {listen: '127.0.0.1:1', routes: [{service: s}], tls: {certificate: a, key: b, clientNames: [x]}}":                  "spec.tls.clientNames: is written without clientCa",
		"Gateway\nmetadata: {name: a}\nspec: {listen: '127.0.0.1:1', routes: [{service: s}], tls: {certificate: a, key: b, clientCertificate: optional}}":       "spec.tls.clientCertificate: is written without clientCa",
		"Gateway\nmetadata: {name: a}\nspec: {listen: '127.0.0.1:1', routes: [{service: s}], tls: {key: b}}":                                                    "spec.tls.certificate",
		"Gateway\nmetadata: {name: a}\nspec: {listen: '127.0.0.1:1', routes: [{service: s}], tls: {certificate: a, key: b, minVersion: 1.1}}":                   "spec.tls.minVersion",
		"Gateway\nmetadata: {name: a}\nspec: {listen: '127.0.0.1:1', routes: [{service: s}], tls: {certificate: a, key: b, clientCa: c, clientNames: ['*.x']}}": "spec.tls.clientNames[0]",
		"External\nmetadata: {name: a}\nspec: {endpoints: [{address: '10.0.0.1:443'}], tls: {}}":                                                                "spec.tls: says not whose certificate is expected",
		"External\nmetadata: {name: a}\nspec: {endpoints: [{address: 'a:443'}], tls: {certificate: c}}":                                                         "spec.tls.key: is missing",
		"External\nmetadata: {name: a}\nspec: {endpoints: [{address: 'a:443'}], tls: {key: c}}":                                                                 "spec.tls.certificate: is missing",
		"External\nmetadata: {name: a}\nspec: {endpoints: [{address: 'a:443'}], tls: {sni: 'a:443'}}":                                                           "spec.tls.sni: holds a port",
	} {
		_, bad := Parse("a.yaml", []byte(head+text))
		if !strings.Contains(bad.Error(), want) {
			t.Errorf("%s\ngot %v, want %s", text, bad, want)
		}
	}
}
