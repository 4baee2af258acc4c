package console

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/sidecar/compile"
)

func packed(t *testing.T, m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestNoKeysInDump looks for a key in a secret and deep in a listener: it is in neither, and names of files are.
func TestNoKeysInDump(t *testing.T) {
	inline := func(s string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
	}
	file := &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: "/a/key.pem"}}
	cert := &tlsv3.TlsCertificate{CertificateChain: inline("CHAIN"), PrivateKey: inline("SECRET-KEY"), Password: inline("SECRET-WORD")}
	ctx := packed(t, &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificates: []*tlsv3.TlsCertificate{cert, {PrivateKey: file}}}})
	listener := &listenerv3.Listener{Name: "l", FilterChains: []*listenerv3.FilterChain{{
		TransportSocket: &corev3.TransportSocket{ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: ctx}},
	}}}
	secret := &tlsv3.Secret{Name: "s", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: cert}}
	h := New(Options{Dump: func() []compile.Status {
		return []compile.Status{
			{TypeURL: compile.ListenerType, Name: "l", Body: packed(t, listener)},
			{TypeURL: compile.SecretType, Name: "s", Body: packed(t, secret)},
		}
	}})
	_, body := get(t, h, "/config_dump")
	if strings.Contains(body, "SECRET") || strings.Count(body, redacted) != 4 || strings.Count(body, "CHAIN") != 2 || !strings.Contains(body, "/a/key.pem") {
		t.Fatal(body)
	}
}

// TestCerts shows how long certificates still hold.
func TestCerts(t *testing.T) {
	h := New(Options{Certs: func() []compile.Certificate {
		return []compile.Certificate{
			{TypeURL: compile.ListenerType, Name: "gateway/public", NotAfter: time.Now().Add(50 * time.Hour), Names: []string{"localhost"}},
			{TypeURL: compile.ClusterType, Name: "api", CA: true, NotAfter: time.Now().Add(-time.Hour), Error: "no such file"},
		}
	}})
	_, body := get(t, h, "/certs")
	var out []Certificate
	if err := json.Unmarshal([]byte(body), &out); err != nil || len(out) != 2 {
		t.Fatal(err, body)
	}
	if a, b := out[0], out[1]; a.For != "Listener gateway/public" || a.Kind != "own" || a.Days != 2 || b.Kind != "ca" || b.Days != -1 || b.Error == "" {
		t.Fatal(body)
	}
}
