package xdsclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
)

// Bootstrap is what a sidecar is started with: the part of an Envoy v3 bootstrap that is served. Other fields are
// refused by name.
type Bootstrap struct {
	Node *corev3.Node
	// Admin is the console's address: "unix" and a path, or "tcp" and host:port; both "" for none.
	AdminNetwork, AdminAddress string
	// ADS is where configuration comes from, as gRPC dials it: "unix:/path" or "host:port"; "" for nowhere.
	ADS string
	// Static are the static resources, clusters first.
	Static []compile.Update
}

// ReadBootstrap reads a bootstrap file, JSON or YAML. The error names every field at fault.
func ReadBootstrap(name string) (*Bootstrap, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the bootstrap: %w", err)
	}
	boot, err := ParseBootstrap(b)
	if err != nil {
		return nil, fmt.Errorf("bootstrap %s: %w", name, err)
	}
	return boot, nil
}

// ParseBootstrap reads a bootstrap, JSON or YAML (which JSON is a part of).
func ParseBootstrap(b []byte) (*Bootstrap, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	p := &bootParser{out: &Bootstrap{}}
	clusters := p.document(doc)
	p.ads(clusters)
	if p.out.Node.GetId() == "" {
		p.bad("node.id", "is missing")
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return p.out, nil
}

type bootParser struct {
	out        *Bootstrap
	errs       []error
	adsCluster string
}

func (p *bootParser) bad(path, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// object goes through the fields of a mapping by their proto names; camelCase is accepted, as in protobuf's JSON.
func (p *bootParser) object(path string, v any, fields map[string]func(path string, v any)) {
	m, ok := v.(map[string]any)
	if !ok {
		p.bad(path, "must be an object")
		return
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		name := strings.TrimPrefix(path+"."+snake(k), ".")
		if f := fields[snake(k)]; f != nil {
			f(name, m[k])
		} else {
			p.bad(name, "is not served by this sidecar")
		}
	}
}

func snake(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

func (p *bootParser) message(path string, v any, m proto.Message) bool {
	b, err := json.Marshal(v)
	if err == nil {
		err = protojson.Unmarshal(b, m)
	}
	if err != nil {
		p.bad(path, "%v", err)
	}
	return err == nil
}

func (p *bootParser) list(path string, v any, each func(path string, v any)) {
	l, ok := v.([]any)
	if !ok {
		p.bad(path, "must be a list")
	}
	for i, e := range l {
		each(fmt.Sprintf("%s[%d]", path, i), e)
	}
}

func (p *bootParser) document(doc map[string]any) []*clusterv3.Cluster {
	var clusters []*clusterv3.Cluster
	listeners := compile.Update{TypeURL: compile.ListenerType, Static: true}
	static := compile.Update{TypeURL: compile.ClusterType, Static: true}
	source := func(path string, v any) {
		s := &corev3.ConfigSource{}
		if p.message(path, v, s) && s.GetAds() == nil {
			p.bad(path, "only ads is served by this sidecar")
		}
	}
	p.object("", doc, map[string]func(string, any){
		"node": func(path string, v any) {
			p.out.Node = &corev3.Node{}
			p.message(path, v, p.out.Node)
		},
		"admin": func(path string, v any) {
			p.object(path, v, map[string]func(string, any){"address": func(path string, v any) {
				a := &corev3.Address{}
				if p.message(path, v, a) {
					p.out.AdminNetwork, p.out.AdminAddress = addressOf(a)
				}
			}})
		},
		"dynamic_resources": func(path string, v any) {
			p.object(path, v, map[string]func(string, any){"lds_config": source, "cds_config": source, "ads_config": p.adsConfig})
		},
		"static_resources": func(path string, v any) {
			p.object(path, v, map[string]func(string, any){
				"clusters": func(path string, v any) {
					p.list(path, v, func(path string, v any) {
						m := &clusterv3.Cluster{}
						if p.message(path, v, m) {
							clusters = append(clusters, m)
							static.Set = append(static.Set, p.resource(path, m.GetName(), m))
						}
					})
				},
				"listeners": func(path string, v any) {
					p.list(path, v, func(path string, v any) {
						m := &listenerv3.Listener{}
						if p.message(path, v, m) {
							listeners.Set = append(listeners.Set, p.resource(path, m.GetName(), m))
						}
					})
				},
			})
		},
	})
	p.out.Static = []compile.Update{static, listeners}
	return clusters
}

func (p *bootParser) resource(path, name string, m proto.Message) compile.Resource {
	a, err := anypb.New(m)
	if err != nil {
		p.bad(path, "%v", err)
	}
	return compile.Resource{Name: name, Version: "static", Body: a}
}

func (p *bootParser) adsConfig(path string, v any) {
	a := &corev3.ApiConfigSource{}
	if !p.message(path, v, a) {
		return
	}
	if t := a.GetApiType(); t != corev3.ApiConfigSource_DELTA_GRPC && t != corev3.ApiConfigSource_GRPC {
		p.bad(path+".api_type", "must be DELTA_GRPC")
	}
	if len(a.GetGrpcServices()) != 1 {
		p.bad(path+".grpc_services", "there are %d; one is served by this sidecar", len(a.GetGrpcServices()))
		return
	}
	switch s := a.GetGrpcServices()[0].GetTargetSpecifier().(type) {
	case *corev3.GrpcService_EnvoyGrpc_:
		p.adsCluster = s.EnvoyGrpc.GetClusterName()
	case *corev3.GrpcService_GoogleGrpc_:
		p.out.ADS = s.GoogleGrpc.GetTargetUri()
	default:
		p.bad(path+".grpc_services[0]", "names no target")
	}
}

// ads finds the address of the cluster that configuration comes from, and takes it out of the static resources: it
// is dialled by this package, not proxied to.
func (p *bootParser) ads(clusters []*clusterv3.Cluster) {
	if p.adsCluster == "" {
		return
	}
	for _, c := range clusters {
		if c.GetName() != p.adsCluster {
			continue
		}
		if c.GetTransportSocket() != nil {
			p.bad("static_resources.clusters["+c.GetName()+"].transport_socket", "is not served by this sidecar")
		}
		p.out.Static[0].Set = slices.DeleteFunc(p.out.Static[0].Set, func(r compile.Resource) bool { return r.Name == p.adsCluster })
		for _, l := range c.GetLoadAssignment().GetEndpoints() {
			for _, e := range l.GetLbEndpoints() {
				switch network, addr := addressOf(e.GetEndpoint().GetAddress()); network {
				case "unix":
					p.out.ADS = "unix:" + addr
					return
				case "tcp":
					p.out.ADS = addr
					return
				}
			}
		}
		p.bad("static_resources.clusters["+c.GetName()+"]", "has no endpoint")
		return
	}
	p.bad("dynamic_resources.ads_config", "names cluster %q, which is not among static_resources.clusters", p.adsCluster)
}

func addressOf(a *corev3.Address) (network, addr string) {
	switch k := a.GetAddress().(type) {
	case *corev3.Address_Pipe:
		return "unix", k.Pipe.GetPath()
	case *corev3.Address_SocketAddress:
		host := k.SocketAddress.GetAddress()
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return "tcp", fmt.Sprintf("%s:%d", host, k.SocketAddress.GetPortValue())
	}
	return "", ""
}

// maxMessageBytes bounds one response of the control plane.
const maxMessageBytes = 256 << 20

// Dial makes the connection to the control plane; it connects when it is first used, and again whenever it breaks.
// A Unix socket's path may be longer than the kernel takes, and relative.
func Dial(target string) (*grpc.ClientConn, error) {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: 2 * time.Second,
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
		}),
		grpc.WithDisableServiceConfig(),
	}
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		if rest, ok := strings.CutPrefix(path, "//"); ok { // unix:///path
			path = rest
		}
		opts = append(opts, grpc.WithAuthority("localhost"), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return unixsock.Dial(ctx, path)
		}))
		target = "passthrough:///control-plane"
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the control plane at %s: %w", target, err)
	}
	return conn, nil
}
