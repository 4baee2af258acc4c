package compile

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/balancer/builtin"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// table is a Sink that remembers.
type table struct {
	refs     map[string]*snapshot.ClusterRef
	clusters map[string]*snapshot.Cluster
	eps      map[string][]snapshot.EndpointSpec
}

func newTable() *table {
	return &table{map[string]*snapshot.ClusterRef{}, map[string]*snapshot.Cluster{}, map[string][]snapshot.EndpointSpec{}}
}

func (t *table) Ref(name string) *snapshot.ClusterRef {
	if t.refs[name] == nil {
		t.refs[name] = &snapshot.ClusterRef{Name: name}
	}
	return t.refs[name]
}

func (t *table) SetCluster(c *snapshot.Cluster) error {
	t.clusters[c.Name] = c
	t.Ref(c.Name).Store(c)
	return nil
}

func (t *table) SetEndpoints(name string, eps []snapshot.EndpointSpec) error {
	t.eps[name] = eps
	return nil
}

func (t *table) Remove(name string) {
	delete(t.clusters, name)
	delete(t.eps, name)
	t.Ref(name).Store(nil)
}

func newCompiler(t *table) *Compiler { return New(Options{Sink: t, Strategies: builtin.All()}) }

// resources reads a list of resources in protobuf's JSON, in the order of the file.
func resources(t testing.TB, b []byte) (out []Update) {
	t.Helper()
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	for i, raw := range list {
		var name struct {
			Name    string `json:"name"`
			Cluster string `json:"cluster_name"`
		}
		a := &anypb.Any{}
		if err := json.Unmarshal(raw, &name); err != nil {
			t.Fatal(err)
		}
		if err := protojson.Unmarshal(raw, a); err != nil {
			t.Fatalf("resource %d: %v", i, err)
		}
		out = append(out, Update{TypeURL: a.GetTypeUrl(), Set: []Resource{{Name: name.Name + name.Cluster, Version: "1", Body: a}}})
	}
	return out
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, in := range files {
		t.Run(strings.TrimSuffix(filepath.Base(in), ".in.json"), func(t *testing.T) {
			b, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			sink := newTable()
			c := newCompiler(sink)
			var out strings.Builder
			for _, u := range resources(t, b) {
				res := c.Update(time.Unix(0, 0), u)
				slices.SortStableFunc(res.Errors, func(a, b ResourceError) int { return strings.Compare(a.Field, b.Field) })
				for _, e := range res.Errors {
					fmt.Fprintf(&out, "error %s\n", strings.ReplaceAll(e.Error(), "\u00a0", " "))
				}
			}
			c.Tick(time.Unix(60, 0))
			describe(&out, c, sink)
			golden := strings.TrimSuffix(in, ".in.json") + ".out.txt"
			if *update {
				if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", out.String(), want)
			}
		})
	}
}

func describe(w *strings.Builder, c *Compiler, sink *table) {
	for _, name := range slices.Sorted(maps.Keys(sink.clusters)) {
		k := sink.clusters[name]
		fmt.Fprintf(w, "cluster %s strategy=%s lb=%+v protocol=%d connect=%v max=%d/%d/%d internal=%v local=%v\n", name, k.Strategy.Name(), k.LB,
			k.Protocol, k.ConnectTimeout, k.MaxConnections, k.MaxPending, k.MaxRequests, k.Internal, k.Local)
		if k.Socket != nil || k.ProxyProtocol != 0 {
			fmt.Fprintf(w, "  socket %+v PROXY protocol=%d\n", k.Socket, k.ProxyProtocol)
		}
		if k.Preconnect != 0 {
			fmt.Fprintf(w, "  preconnect %v\n", k.Preconnect)
		}
		if k.DNS != nil {
			fmt.Fprintf(w, "  dns %+v\n", *k.DNS)
		}
		if k.OriginalDst {
			fmt.Fprintf(w, "  original destination\n")
		}
		if k.Budget != nil {
			fmt.Fprintf(w, "  budget %+v\n", *k.Budget)
		}
		if k.Outlier != nil {
			fmt.Fprintf(w, "  outlier %+v\n", *k.Outlier)
		}
		if k.Health != nil {
			fmt.Fprintf(w, "  health %+v\n", *k.Health)
		}
		for _, e := range sink.eps[name] {
			fmt.Fprintf(w, "  endpoint %+v\n", e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.units)) {
		v := c.units[name].active
		if v == nil {
			continue
		}
		l := v.def.l
		fmt.Fprintf(w, "listener %s %s %s direction=%d\n", name, l.Network, l.Address, l.Direction)
		if l.HandOver || l.Unbound {
			fmt.Fprintf(w, "  hands over=%v unbound=%v\n", l.HandOver, l.Unbound)
		}
		if f := l.Front; f != nil {
			fmt.Fprintf(w, "  front tls=%v http=%v timeout=%v continue=%v proxy protocol=%+v\n", f.SniffTLS, f.SniffHTTP, f.Timeout, f.Continue, f.ProxyProtocol)
		}
		for _, cv := range v.chains {
			l := cv.def.l
			if v.def.several {
				fmt.Fprintf(w, "  chain %s default=%v %+v\n", cv.def.key, cv.def.fallback, cv.def.match)
			}
			if l.TCP != nil {
				fmt.Fprintf(w, "  tcp idle=%v age=%v attempts=%d clusters=%s\n", l.TCP.IdleTimeout, l.TCP.MaxDuration, l.TCP.MaxConnectAttempts, split(l.TCP.Clusters))
			}
			if l.HTTP == nil {
				continue
			}
			h := *l.HTTP
			h.Options, h.HTTP2 = nil, nil
			fmt.Fprintf(w, "  http %+v\n", h)
			if o := l.HTTP.Options; o != nil {
				fmt.Fprintf(w, "  options %+v\n", *o)
			}
			if cv.routes.active == nil {
				continue
			}
			for _, vh := range cv.routes.active.routes.hosts {
				fmt.Fprintf(w, "  host %s %v\n", vh.Name, vh.Domains)
				for _, r := range vh.Routes {
					m := r.Match
					fmt.Fprintf(w, "    route %s pattern=%q kind=%d path=%q method=%q headers=%d query=%d filters=%s\n", r.Name, r.Pattern, m.Kind, m.Path, m.Method,
						len(m.Headers), len(m.Query), filters(r.Filters))
					switch {
					case r.Direct != nil:
						fmt.Fprintf(w, "      direct %+v\n", *r.Direct)
					case r.Redirect != nil:
						fmt.Fprintf(w, "      redirect %+v\n", *r.Redirect)
					case r.Forward != nil:
						f := r.Forward
						fmt.Fprintf(w, "      forward %s timeout=%v head=%v grpc=%v/%v rewrite=%q\n", split(f.Clusters), f.Timeout, f.HeadTimeout, f.UseGRPCTimeout,
							f.GRPCTimeoutMax, f.PrefixRewrite)
						if f.Retry != nil {
							fmt.Fprintf(w, "      retry %+v\n", *f.Retry)
						}
					}
				}
			}
		}
	}
}

func split(cs []snapshot.WeightedCluster) string {
	var out []string
	for _, c := range cs {
		s := fmt.Sprintf("%s:%d", c.Ref.Name, c.Weight)
		if c.Filters != nil {
			s += filters(c.Filters)
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func filters(fs []snapshot.Filter) string {
	out := []string{}
	for _, f := range fs {
		out = append(out, strings.TrimPrefix(fmt.Sprintf("%T", f), "*"))
	}
	return fmt.Sprint(out)
}

func shop(t testing.TB) map[string]Update {
	b, err := os.ReadFile("testdata/shop.in.json")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Update{}
	for _, u := range resources(t, b) {
		out[shortType(u.TypeURL)+" "+u.Set[0].Name] = u
	}
	return out
}

const (
	listenerName = "outbound/default/orders/http"
	routesName   = "service/default/orders/http"
	clusterName  = "default/orders/http/1.0.0"
)

// A listener waits for its routes, these for their clusters, these for their endpoints, in whatever order they come.
func TestWarming(t *testing.T) {
	r := shop(t)
	c := newCompiler(newTable())
	now := time.Unix(100, 0)
	steps := []string{"Listener " + listenerName, "RouteConfiguration " + routesName, "Cluster inbound/http", "Cluster " + clusterName}
	for _, s := range steps {
		res := c.Update(now, r[s])
		if len(res.Errors) > 0 || res.Snapshot != nil {
			t.Fatalf("after %s: errors %v, snapshot %v", s, res.Errors, res.Snapshot)
		}
		if n := len(c.Wanted()[ClusterType]); s == steps[1] && n != 2 {
			t.Fatalf("%d clusters are asked for by name, want both", n)
		}
		if want := now.Add(5 * time.Second); !res.Next.Equal(want) {
			t.Fatalf("after %s: next %v, want %v", s, res.Next, want)
		}
	}
	if w := c.Wanted(); len(w[ClusterType]) != 2 || !w[RouteType][routesName] || !w[EndpointType][clusterName] {
		t.Fatalf("wanted %v", w)
	}
	res := c.Update(now, r["ClusterLoadAssignment "+clusterName])
	if res.Snapshot == nil || res.Snapshot.Listeners[listenerName].HTTP.Routes.Load() == nil {
		t.Fatalf("not active with all there: %+v", res)
	}
}

func TestWarmingTimesOut(t *testing.T) {
	r := shop(t)
	c := newCompiler(newTable())
	now := time.Unix(100, 0)
	c.Update(now, r["Listener "+listenerName])
	if res := c.Tick(now.Add(4 * time.Second)); res.Snapshot != nil {
		t.Fatal("too early")
	}
	res := c.Tick(now.Add(5 * time.Second))
	if res.Snapshot == nil {
		t.Fatal("never active")
	}
	ref := res.Snapshot.Listeners[listenerName].HTTP.Routes
	if ref.Load() != nil {
		t.Fatal("routes out of nothing")
	}
	now = now.Add(10 * time.Second)
	c.Update(now, r["RouteConfiguration "+routesName])
	if ref.Load() != nil {
		t.Fatal("active before its clusters")
	}
	c.Tick(now.Add(5 * time.Second))
	if ref.Load() == nil {
		t.Fatal("the table never became active")
	}
}

func TestLastGoodStays(t *testing.T) {
	r := shop(t)
	sink := newTable()
	c := newCompiler(sink)
	now := time.Unix(100, 0)
	for _, u := range r {
		c.Update(now, u)
	}
	c.Tick(now.Add(time.Minute))
	before := sink.clusters[clusterName]
	bad := r["Cluster "+clusterName]
	bad.Set = []Resource{{Name: clusterName, Version: "2", Body: &anypb.Any{TypeUrl: ClusterType, Value: []byte{0xff}}}}
	res := c.Update(now, bad)
	if len(res.Errors) != 1 || sink.clusters[clusterName] != before {
		t.Fatalf("%v", res.Errors)
	}
	for _, s := range c.Dump() {
		if s.Name == clusterName && s.TypeURL == ClusterType && (s.Version != "1" || s.Rejected != "2" || s.Body == nil) {
			t.Fatalf("%+v", s)
		}
	}
	if n := len(c.Rejected()); n != 1 {
		t.Fatalf("%d rejected", n)
	}
	// Withdrawn, but still referred to: it stays until nothing does, or for the time of warming.
	c.Update(now, Update{TypeURL: ClusterType, Removed: []string{clusterName}})
	if sink.clusters[clusterName] == nil || !c.Wanted()[ClusterType][clusterName] {
		t.Fatal("broken before made")
	}
	res = c.Update(now, Update{TypeURL: ListenerType, Removed: []string{listenerName}})
	if sink.clusters[clusterName] != nil || res.Snapshot == nil || res.Snapshot.Listeners[listenerName] != nil {
		t.Fatal("a cluster that nothing refers to stays")
	}
}

// A limiter's bucket and a listener's place of routes are the same after an update.
func TestStateOutlivesUpdates(t *testing.T) {
	r := shop(t)
	c := newCompiler(newTable())
	now := time.Unix(100, 0)
	for _, u := range r {
		c.Update(now, u)
	}
	c.Tick(now.Add(time.Minute))
	n := c.opts.Limits.Len()
	ref := c.units[listenerName].active.chains[0].ref
	table := ref.Load()
	c.Update(now, r["RouteConfiguration "+routesName])
	c.Update(now, r["Listener "+listenerName])
	if c.units[listenerName].active.chains[0].ref != ref || ref.Load() == table {
		t.Fatal("connections that are open would not see the new table")
	}
	if n != 1 || c.opts.Limits.Len() != n {
		t.Fatalf("%d buckets, then %d", n, c.opts.Limits.Len())
	}
}

func FuzzUpdate(f *testing.F) {
	for _, name := range []string{"shop", "refused"} {
		b, err := os.ReadFile("testdata/" + name + ".in.json")
		if err != nil {
			f.Fatal(err)
		}
		for _, u := range resources(f, b) {
			f.Add(uint8(slices.Index(Types(), u.TypeURL)), u.Set[0].Name, u.Set[0].Body.GetValue())
		}
	}
	f.Fuzz(func(t *testing.T, typ uint8, name string, body []byte) {
		url := Types()[int(typ)%len(Types())]
		c := newCompiler(newTable())
		now := time.Unix(0, 0)
		c.Update(now, Update{TypeURL: url, Set: []Resource{{Name: name, Version: "1", Body: &anypb.Any{TypeUrl: url, Value: body}}}})
		c.Wanted()
		c.Tick(now.Add(time.Minute))
		c.Update(now, Update{TypeURL: url, Removed: []string{name}})
		c.Dump()
	})
}
