package conformance_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3" // named in the golden files
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/balancer/builtin"
	"github.com/outrigger-mesh/outrigger/internal/testkit"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// TestControlPlaneToSidecar gives the sidecar's compiler what the control plane's golden files say that it sends to each kind of
// node of ours: nothing of it may be refused.
func TestControlPlaneToSidecar(t *testing.T) {
	// The golden files name certificates that are nowhere: here they are.
	dir, ca := t.TempDir(), testkit.NewCA(t, "ca")
	testkit.Replace(t, filepath.Join(dir, "ca.pem"), ca.PEM)
	for _, name := range []string{"own", "public"} {
		ca.Issue(t, time.Time{}, name+".example").Write(t, dir, name)
	}
	for _, node := range []string{"sidecar", "sidecar-ondemand", "gateway", "edge"} {
		t.Run(node, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("..", "..", "controlplane", "xds", "testdata", node+".out.json"))
			if err != nil {
				t.Fatal(err)
			}
			b = bytes.ReplaceAll(b, []byte(`"/tls/`), []byte(`"`+dir+`/`))
			var all map[string]map[string]json.RawMessage
			if err := json.Unmarshal(b, &all); err != nil {
				t.Fatal(err)
			}
			srv, err := proxy.New(proxy.Options{Loops: 1, Sockets: sockets{}})
			if err != nil {
				t.Fatal(err)
			}
			defer srv.Close()
			c := compile.New(compile.Options{
				Sink: srv.Table(), Strategies: builtin.All(),
				OnDemand: func(string) snapshot.OnDemand { return nil },
			})
			n := 0
			for _, typ := range compile.Types() {
				u := compile.Update{TypeURL: typ}
				for name, raw := range all[typ] {
					mt, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(strings.TrimPrefix(typ, "type.googleapis.com/")))
					if err != nil {
						t.Fatal(err)
					}
					m := mt.New().Interface()
					if err := protojson.Unmarshal(raw, m); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					body, err := anypb.New(m)
					if err != nil {
						t.Fatal(err)
					}
					u.Set = append(u.Set, compile.Resource{Name: strings.TrimPrefix(name, "? "), Version: "1", Body: body})
					n++
				}
				for _, e := range c.Update(time.Now(), u).Errors {
					t.Error(e)
				}
			}
			if n < 3 {
				t.Fatalf("%d resources: the golden file has changed its shape", n)
			}
		})
	}
}
