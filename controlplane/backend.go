package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/admin"
	"github.com/outrigger-mesh/outrigger/controlplane/ads"
	"github.com/outrigger-mesh/outrigger/controlplane/host"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// Apply implements admin.Backend.
func (p *Plane) Apply(ctx context.Context, r admin.ApplyRequest) (admin.ApplyResult, error) {
	if r.Source == "" {
		r.Source = "apply"
	}
	k := p.checks()
	return p.write(ctx, r.DryRun, r.ExpectedRevision, func(c *catalog) (*plan, error) { return planApply(c, r, k) })
}

// Delete implements admin.Backend.
func (p *Plane) Delete(ctx context.Context, key admin.Key, dryRun bool) (admin.ApplyResult, error) {
	k := p.checks()
	return p.write(ctx, dryRun, nil, func(c *catalog) (*plan, error) { return planDelete(c, key, k) })
}

func (p *Plane) write(ctx context.Context, dryRun bool, expected *uint64, planner func(*catalog) (*plan, error)) (admin.ApplyResult, error) {
	pl, rev, err := commit(ctx, p.store, p.read, dryRun, expected, planner)
	if err != nil {
		return admin.ApplyResult{}, err
	}
	if !dryRun && pl.changed {
		// What was applied is in force when the answer comes, as far as this host decides.
		if _, err := p.read(ctx); err != nil {
			return admin.ApplyResult{}, fmt.Errorf("revision %d was written and cannot be read back: %w", rev.Number, err)
		}
		if p.serving.Load() {
			p.remake(true)
		}
	}
	return admin.ApplyResult{Revision: rev.Number, Changed: pl.changed, DryRun: dryRun, Changes: pl.changes, Warnings: pl.warnings}, nil
}

// Resources implements admin.Backend.
func (p *Plane) Resources(_ context.Context, k admin.Key) ([]admin.Resource, error) {
	kind := resource.Kind("")
	if k.Kind != "" {
		var ok bool
		if kind, ok = resource.ParseKind(k.Kind); !ok {
			return nil, unknownKind(k.Kind)
		}
	}
	p.mu.Lock()
	c, m, problems := p.catalog, p.model, p.problems
	p.mu.Unlock()
	nodes := p.ads.Status()
	out := []admin.Resource{}
	for _, x := range c.all {
		if kind != "" && x.key.Kind != kind || k.Name != "" && x.key.Name != k.Name ||
			k.Version != "" && x.key.Version != k.Version || k.Tenant != "" && x.key.Tenant != k.Tenant {
			continue
		}
		manifest := json.RawMessage(x.data)
		if !json.Valid(manifest) {
			manifest, _ = json.Marshal(map[string]string{"unreadable": string(x.data)})
		}
		out = append(out, admin.Resource{
			Tenant: x.key.Tenant, Kind: string(x.key.Kind), Name: x.key.Name, Version: x.key.Version,
			Source: x.entry.Source, Origin: x.entry.Origin, Manifest: manifest, Status: statusOf(x, m, problems, nodes),
		})
	}
	if k.Name != "" && len(out) == 0 {
		return nil, notFound(c, kind, k)
	}
	return out, nil
}

// statusOf tells what became of a resource.
func statusOf(x *stored, m *model.Model, problems resource.Violations, nodes []ads.NodeStatus) admin.ResourceStatus {
	s := admin.ResourceStatus{State: "in force"}
	if x.problem != "" {
		s.State, s.Problems = "invalid", []string{x.problem}
		return s
	}
	for _, v := range problems {
		if v.Resource == x.key.String() {
			s.Problems = append(s.Problems, v.String())
		}
	}
	if len(s.Problems) > 0 {
		s.State = "invalid"
	}
	about := aboutService(x.res)
	for _, n := range nodes {
		for _, r := range n.Resources {
			if !concerns(x, about, n.Node, r.Name) {
				continue
			}
			switch {
			case r.Rejected != nil:
				s.State = "rejected"
				why := r.Rejected.Reason
				if r.Rejected.Field != "" {
					why = r.Rejected.Field + ": " + why
				}
				s.Rejections = append(s.Rejections, admin.Rejection{Node: n.Node, Type: shortType(r.TypeURL), Name: r.Name, Reason: why})
			case n.Connected && r.Sent != r.Taken && s.State == "in force":
				s.State = "pending"
			}
		}
		if f, ok := foreignOf(n.Node); ok && n.Connected && f.Tenant == x.key.Tenant {
			if left := notCarried(x.res, f.Kind, outside(m, x)); len(left) > 0 {
				s.NotCarried = append(s.NotCarried, admin.NotCarried{Node: nodeName(f), Policies: left})
			}
		}
	}
	if m == nil {
		s.State = "pending"
	}
	return s
}

// aboutService is the service that a resource is about, "" where it is none.
func aboutService(r *resource.Resource) string {
	switch s := r.Spec.(type) {
	case *resource.Service, *resource.External:
		return r.Name()
	case *resource.TrafficPolicy:
		return s.Service
	case *resource.TrafficSplit:
		return s.Service
	case *resource.Route:
		return s.Service
	}
	return ""
}

// concerns says whether an xDS resource at a node came of x.
func concerns(x *stored, service, node, name string) bool {
	if x.key.Kind == resource.KindGateway {
		return name == xdsname.GatewayListener(x.key.Name)
	}
	if service == "" {
		return false
	}
	if strings.HasPrefix(name, "inbound/") {
		return strings.HasPrefix(node, service+"-") || strings.HasPrefix(node, x.key.Tenant+"."+service+"-")
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(name, "service/"), "outbound/")
	if strings.HasPrefix(rest, x.key.Tenant+"/"+service+"/") {
		p, ok := xdsname.ParseCluster(name)
		return !ok || p.Version == "" || x.key.Version == "" || p.Version == x.key.Version
	}
	// Virtual hosts: ROUTES/HOST.
	_, hostName, ok := strings.Cut(name, "/")
	return ok && (hostName == service || hostName == service+".localhost")
}

func shortType(url string) string {
	return url[strings.LastIndexByte(url, '.')+1:]
}

// History implements admin.Backend.
func (p *Plane) History(ctx context.Context, limit int) ([]admin.Revision, error) {
	h, err := p.store.History(ctx, limit)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	now := p.Revision()
	out := make([]admin.Revision, 0, len(h))
	for _, i := range h {
		out = append(out, admin.Revision{Number: i.Number, Time: i.Time, Author: i.Author, Source: i.Source, Summary: i.Message, Current: i.Number == now})
	}
	return out, nil
}

// Events implements admin.Backend.
func (p *Plane) Events(ctx context.Context, epoch string, since uint64, follow bool, yield func(admin.Event) bool) error {
	return p.journal.read(ctx, epoch, since, follow, yield)
}

// Logs implements admin.Backend.
func (p *Plane) Logs(ctx context.Context, q admin.LogQuery, w io.Writer) error {
	files, err := p.host.LogFiles(orDefault(q.Tenant), q.Name, q.Sidecar)
	if err != nil {
		return p.named(err)
	}
	if q.Name == "" && !q.Sidecar { // a gateway has no output of its own: its sidecar's is asked for by name
		files = slices.DeleteFunc(files, func(f host.LogFile) bool { return filepath.Base(f.Path) != runner.OutLog })
	}
	lines := q.Tail
	if lines < 0 {
		lines = 1 << 30
	}
	return p.host.Logs(ctx, files, lines, q.Follow, w)
}

// Bootstrap implements admin.Backend.
func (p *Plane) Bootstrap(_ context.Context, r admin.BootstrapRequest) ([]byte, error) {
	if r.Kind != ads.KindEnvoy && r.Kind != ads.KindGRPC {
		return nil, admin.NotFound("client "+r.Kind, "envoy or grpc")
	}
	tenant := orDefault(r.Tenant)
	p.mu.Lock()
	m := p.model
	p.mu.Unlock()
	key := model.ServiceKey{Tenant: tenant, Name: r.Service}
	if m == nil || m.Services[key] == nil {
		return nil, admin.NotFound("service "+key.String(), "")
	}
	id := ads.SignForeign(p.secret, ads.Foreign{Kind: r.Kind, Tenant: tenant, Service: r.Service})
	b, err := json.MarshalIndent(foreignBootstrap(r, id, tenant, filepath.Join(p.o.State.Dir, adsSocket)), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the bootstrap: %w", err)
	}
	return append(b, '\n'), nil
}

// foreignBootstrap is what an unmodified client starts with. JSON is YAML too.
func foreignBootstrap(r admin.BootstrapRequest, id, tenant, socket string) any {
	type object = map[string]any
	meta := object{"kind": r.Kind, "tenant": tenant, "service": r.Service}
	if r.Kind == ads.KindGRPC {
		return object{
			"xds_servers": []any{object{
				"server_uri": "unix:" + socket, "channel_creds": []any{object{"type": "insecure"}}, "server_features": []string{"xds_v3"},
			}},
			"node": object{"id": id, "cluster": r.Service, "metadata": object{xdsname.MetadataKey: meta}},
		}
	}
	meta["listen"] = r.Listen
	const name = "outrigger_ads"
	ads := object{"resource_api_version": "V3", "ads": object{}}
	return object{
		"node": object{"id": id, "cluster": r.Service, "metadata": object{xdsname.MetadataKey: meta}},
		"dynamic_resources": object{
			"ads_config": object{"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": []any{object{"envoy_grpc": object{"cluster_name": name}}}},
			"lds_config": ads, "cds_config": ads,
		},
		"static_resources": object{"clusters": []any{object{
			"name": name, "type": "STATIC", "connect_timeout": "1s",
			"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
				"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config": object{"http2_protocol_options": object{}},
			}},
			"load_assignment": object{"cluster_name": name, "endpoints": []any{object{"lb_endpoints": []any{
				object{"endpoint": object{"address": object{"pipe": object{"path": socket}}}},
			}}}},
		}}},
	}
}
