package xdsclient

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
	"github.com/outrigger-mesh/outrigger/internal/violation"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
)

// Bootstrap is what a sidecar is started with: the part of an Envoy v3 bootstrap that is served. All else is refused
// by its path: see compile.ServedFields, and docs/reference/xds.md.
type Bootstrap struct {
	// Node is never nil; its id is not "" where configuration comes from a control plane.
	Node *corev3.Node
	// Admin is the console's address: "unix" and a path, or "tcp" and a loopback address; both "" for none.
	AdminNetwork, AdminAddress string
	// ADS is where configuration comes from, as gRPC dials it: "unix:/path" or "host:port"; "" for nowhere.
	ADS string
	// Overload is what the bootstrap says of the whole sidecar's limits; nil where it says nothing.
	Overload *Overload
	// Static are the static resources, clusters first.
	Static []compile.Update

	file string
	doc  *document
	// paths says where each static resource is written, by type and name.
	paths map[[2]string]string
}

// ReadBootstrap reads a bootstrap file, JSON or YAML. The error, a violation.List, names every field at fault by
// file, line and path.
func ReadBootstrap(name string) (*Bootstrap, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the bootstrap: %w", err)
	}
	return ParseBootstrap(name, b)
}

// ParseBootstrap reads a bootstrap, JSON or YAML (which JSON is a part of). name stands in errors; it may be "".
func ParseBootstrap(name string, b []byte) (*Bootstrap, error) {
	doc, root := parseDocument(b)
	p := &bootParser{document: doc, out: &Bootstrap{file: name, doc: doc, paths: map[[2]string]string{}}}
	if root != nil {
		clusters := p.bootstrap(root)
		p.ads(clusters)
	}
	if len(doc.errs) > 0 {
		for i := range doc.errs {
			doc.errs[i].File = name
		}
		doc.errs.Sort()
		return nil, doc.errs
	}
	return p.out, nil
}

// Explain says where in the bootstrap a static resource's error is.
func (b *Bootstrap) Explain(errs []compile.ResourceError) error {
	var l violation.List
	for _, e := range errs {
		path := b.paths[[2]string{e.TypeURL, e.Name}]
		if e.Field != "" {
			path = violation.Field(path, e.Field)
		}
		l = append(l, violation.Violation{File: b.file, Line: b.doc.line(path), Path: path, Message: e.Reason})
	}
	l.Sort()
	return l.Err()
}

type bootParser struct {
	*document
	out        *Bootstrap
	adsPath    string // of what names adsCluster
	adsCluster string
}

type staticCluster struct {
	path string
	*clusterv3.Cluster
}

func (p *bootParser) bootstrap(root *yaml.Node) []staticCluster {
	var clusters []staticCluster
	listeners := compile.Update{TypeURL: compile.ListenerType, Static: true}
	static := compile.Update{TypeURL: compile.ClusterType, Static: true}
	secrets := compile.Update{TypeURL: compile.SecretType, Static: true}
	sources, adsConfig := map[string]bool{}, false
	source := func(path string, n *yaml.Node) {
		sources[path] = true
		s := &corev3.ConfigSource{}
		if !p.checked(path, n, s) {
			return
		}
		if s.GetAds() == nil {
			p.bad(path, "ads: {}", "only ads is served by this sidecar")
		}
		compile.Source(s, func(field, reason string) { p.bad(path+"."+field, "", "%s", reason) })
	}
	p.out.Node = &corev3.Node{}
	p.object("", root, map[string]func(string, *yaml.Node){
		"node":             func(path string, n *yaml.Node) { p.checked(path, n, p.out.Node) },
		"admin":            p.admin,
		"overload_manager": p.overloadManager,
		"dynamic_resources": func(path string, n *yaml.Node) {
			p.object(path, n, map[string]func(string, *yaml.Node){
				"lds_config": source, "cds_config": source,
				"ads_config": func(path string, n *yaml.Node) { adsConfig = true; p.adsConfig(path, n) },
			})
		},
		"static_resources": func(path string, n *yaml.Node) {
			p.object(path, n, map[string]func(string, *yaml.Node){
				"clusters": func(path string, n *yaml.Node) {
					p.list(path, n, func(path string, n *yaml.Node) {
						m := &clusterv3.Cluster{}
						if p.message(path, n, m) {
							clusters = append(clusters, staticCluster{path, m})
							p.resource(&static, path, m.GetName(), m)
						}
					})
				},
				"secrets": func(path string, n *yaml.Node) {
					p.list(path, n, func(path string, n *yaml.Node) {
						m := &tlsv3.Secret{}
						if p.message(path, n, m) {
							p.resource(&secrets, path, m.GetName(), m)
						}
					})
				},
				"listeners": func(path string, n *yaml.Node) {
					p.list(path, n, func(path string, n *yaml.Node) {
						m := &listenerv3.Listener{}
						if p.message(path, n, m) {
							if m.Name == "" { // as Envoy does, which makes one up
								m.Name = path
							}
							p.resource(&listeners, path, m.GetName(), m)
						}
					})
				},
			})
		},
	})
	const dynamic = "dynamic_resources"
	switch {
	case adsConfig && len(sources) < 2:
		p.bad(dynamic, "lds_config: {ads: {}} and cds_config: {ads: {}}", "ads_config brings listeners and clusters alike, so both lds_config and cds_config must name ads")
	case !adsConfig && len(sources) > 0:
		p.bad(dynamic+".ads_config", "", "is missing: the other sources name ads")
	}
	if adsConfig && p.out.Node.GetId() == "" {
		p.bad("node.id", "", "is missing: a control plane knows a sidecar by it")
	}
	p.out.Static = []compile.Update{static, listeners}
	if len(secrets.Set) > 0 { // first, so that the others find them
		p.out.Static = []compile.Update{secrets, static, listeners}
	}
	return clusters
}

func (p *bootParser) admin(path string, n *yaml.Node) {
	p.object(path, n, map[string]func(string, *yaml.Node){"address": func(path string, n *yaml.Node) {
		a := &corev3.Address{}
		if !p.checked(path, n, a) {
			return
		}
		p.out.AdminNetwork, p.out.AdminAddress = addressOf(a)
		s := a.GetSocketAddress()
		if s == nil {
			return
		}
		if ip, err := netip.ParseAddr(s.GetAddress()); err != nil || !ip.IsLoopback() {
			p.bad(path+".socket_address.address", "127.0.0.1, ::1 or a pipe", "%q is not a loopback address: the console shows the whole configuration", s.GetAddress())
		}
		if s.GetPortValue() > 65535 {
			p.bad(path+".socket_address.port_value", "", "must be at most 65535")
		}
	}})
}

func (p *bootParser) resource(to *compile.Update, path, name string, m proto.Message) {
	key := [2]string{to.TypeURL, name}
	if other := p.out.paths[key]; other != "" {
		p.bad(path+".name", "", "%q is already that of %s", name, other)
	}
	p.out.paths[key] = path
	a, err := anypb.New(m)
	if err != nil {
		p.bad(path, "", "%v", err)
	}
	to.Set = append(to.Set, compile.Resource{Name: name, Version: "static", Body: a})
}

func (p *bootParser) adsConfig(path string, n *yaml.Node) {
	a := &corev3.ApiConfigSource{}
	if !p.checked(path, n, a) {
		return
	}
	if t := a.GetApiType(); t != corev3.ApiConfigSource_DELTA_GRPC {
		p.bad(path+".api_type", "DELTA_GRPC", "%v is not served by this sidecar", t)
	}
	if v := a.GetTransportApiVersion(); v != corev3.ApiVersion_V3 {
		p.bad(path+".transport_api_version", "V3", "%v is not served by this sidecar", v)
	}
	if len(a.GetGrpcServices()) != 1 {
		p.bad(path+".grpc_services", "", "there are %d; one is served by this sidecar", len(a.GetGrpcServices()))
		return
	}
	service := path + ".grpc_services[0]"
	switch s := a.GetGrpcServices()[0].GetTargetSpecifier().(type) {
	case *corev3.GrpcService_EnvoyGrpc_:
		p.adsPath, p.adsCluster = service+".envoy_grpc.cluster_name", s.EnvoyGrpc.GetClusterName()
		if p.adsCluster == "" {
			p.bad(p.adsPath, "", "is missing")
		}
	case *corev3.GrpcService_GoogleGrpc_:
		if p.out.ADS = s.GoogleGrpc.GetTargetUri(); p.out.ADS == "" {
			p.bad(service+".google_grpc.target_uri", "", "is missing")
		}
	default:
		p.bad(service, "", "names no target")
	}
}

// ads finds the address of the cluster that configuration comes from, and takes it out of the static resources: it
// is dialled by this package, not proxied to. What of it would not be done is refused: calls to it are not balanced,
// counted, tried again by policy, or checked.
func (p *bootParser) ads(clusters []staticCluster) {
	if p.adsCluster == "" {
		return
	}
	for _, c := range clusters {
		if c.GetName() != p.adsCluster {
			continue
		}
		i := slices.IndexFunc(p.out.Static, func(u compile.Update) bool { return u.TypeURL == compile.ClusterType })
		p.out.Static[i].Set = slices.DeleteFunc(p.out.Static[i].Set, func(r compile.Resource) bool { return r.Name == p.adsCluster })
		c.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			switch fd.Name() {
			case "name", "type", "connect_timeout", "load_assignment", "http2_protocol_options", "typed_extension_protocol_options":
			default:
				p.bad(violation.Field(c.path, string(fd.Name())), "", "is not served by this sidecar on the cluster that configuration comes from")
			}
			return true
		})
		switch c.GetType() {
		case clusterv3.Cluster_STATIC, clusterv3.Cluster_STRICT_DNS, clusterv3.Cluster_LOGICAL_DNS:
		default:
			p.bad(c.path+".type", "STATIC or STRICT_DNS", "%v is not served by this sidecar on the cluster that configuration comes from", c.GetType())
		}
		l := c.GetLoadAssignment().GetEndpoints()
		if len(l) != 1 || len(l[0].GetLbEndpoints()) != 1 {
			p.bad(c.path+".load_assignment", "", "must hold one endpoint: the control plane's")
			return
		}
		const endpoint = ".load_assignment.endpoints[0].lb_endpoints[0].endpoint"
		e := l[0].GetLbEndpoints()[0].GetEndpoint()
		for _, u := range compile.Unserved(e) {
			p.bad(violation.Field(c.path+endpoint, u.Field), "", "%s", u.Reason)
		}
		switch network, addr := addressOf(e.GetAddress()); network {
		case "unix":
			p.out.ADS = "unix:" + addr
		case "tcp":
			p.out.ADS = addr
		default:
			p.bad(c.path+endpoint+".address", "", "is missing")
		}
		return
	}
	p.bad(p.adsPath, "", "%q is not among static_resources.clusters", p.adsCluster)
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
