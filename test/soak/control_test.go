package soak

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"text/template"
	"time"

	// The types of what is within others.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachetypes "github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
)

const node = "soak"

// control is the control plane: it pushes another configuration at every turn.
type control struct {
	t         *testing.T
	tpl       *template.Template
	cache     cachev3.SnapshotCache
	ca        *authority
	listeners map[string]string // ports
	upstreams map[string][]string

	push  atomic.Int64
	nacks atomic.Int64
	mu    sync.Mutex
	nack  string
}

func newControl(t *testing.T, path string) *control {
	c := &control{t: t, cache: cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil), ca: newAuthority(t), tpl: template.Must(template.ParseFiles("testdata/resources.yaml.tmpl"))}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, serverv3.NewServer(ctx, c.cache, serverv3.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			if e := r.GetErrorDetail(); e != nil {
				c.nacks.Add(1)
				c.mu.Lock()
				c.nack = r.GetTypeUrl() + ": " + e.GetMessage()
				c.mu.Unlock()
			}
			return nil
		},
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		cancel()
		s.Stop()
		<-done
	})
	return c
}

// next pushes another configuration. Of each cluster's endpoints one is away in turn; the certificate is a new one each time.
func (c *control) next() error {
	n := c.push.Add(1)
	cert, key, err := c.ca.issue(n)
	if err != nil {
		return err
	}
	listeners, clusters := map[string]string{}, map[string][]string{}
	for k, v := range c.listeners {
		if k != "extra" || n%2 == 1 {
			listeners[k] = v
		}
	}
	for k, l := range c.upstreams {
		for i, a := range l {
			if n%int64(len(l)+1) != int64(i) {
				clusters[k] = append(clusters[k], a)
			}
		}
	}
	var b bytes.Buffer
	if err := c.tpl.Execute(&b, map[string]any{
		"N": n, "Odd": n%2 == 1, "Weight": 10 + n%80, "Listeners": listeners, "Clusters": clusters,
		"Certificate": strconv.Quote(string(cert)), "Key": strconv.Quote(string(key)),
	}); err != nil {
		return err
	}
	var list []any
	if err := yaml.Unmarshal(b.Bytes(), &list); err != nil {
		return fmt.Errorf("%w in\n%s", err, b.String())
	}
	by := map[resourcev3.Type][]cachetypes.Resource{}
	for _, r := range list {
		j, err := json.Marshal(r)
		if err != nil {
			return err
		}
		a := new(anypb.Any)
		if err := protojson.Unmarshal(j, a); err != nil {
			return fmt.Errorf("%w in %s", err, j)
		}
		m, err := a.UnmarshalNew()
		if err != nil {
			return err
		}
		by[a.GetTypeUrl()] = append(by[a.GetTypeUrl()], m)
	}
	s, err := cachev3.NewSnapshot(strconv.FormatInt(n, 10), by)
	if err != nil {
		return err
	}
	return c.cache.SetSnapshot(context.Background(), node, s)
}

// authority signs the listener's certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "soak"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, cert: cert, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// issue makes a certificate whose serial number tells the push.
func (a *authority) issue(n int64) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: "soak.example"}, DNSNames: []string{"soak.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, k.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	kb, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb}), nil
}
