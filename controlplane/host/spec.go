package host

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/outrigger-mesh/outrigger/api/resource"
	"github.com/outrigger-mesh/outrigger/controlplane/model"
	"github.com/outrigger-mesh/outrigger/internal/backoff"
	"github.com/outrigger-mesh/outrigger/internal/xdsname"
	"github.com/outrigger-mesh/outrigger/supervisor/runner"
)

// NodeClusterADS is the static cluster of a bootstrap that leads to the control plane.
const NodeClusterADS = "outrigger-ads"

// build makes what the runner of an instance is told, and says where the instance is reached. recheck says that the instance does not
// run, so that a chosen port that somebody took meanwhile is replaced. The ports are not saved yet.
func (h *Host) build(u *unit, id string, services map[model.ServiceKey]*model.Service, environ []string, recheck bool) (runner.Spec, *model.Local, error) {
	dir := h.dirOf(id)
	spec := runner.Spec{
		Format: runner.SpecFormat, Instance: id, Service: u.service.Name, Version: u.version, Tenant: u.service.Tenant,
		Kind: "sidecar", Dir: dir, Order: u.rank, Drain: h.cfg.Drain,
	}
	cpus := h.cfg.SidecarCPUs
	if u.gateway != nil {
		spec.Kind, spec.Service, cpus = "gateway", "", runtime.NumCPU()
	}
	spec.Sidecar = &runner.Sidecar{
		Command:   []string{h.programOf(id), "-c", filepath.Join(dir, "bootstrap.json")},
		Env:       []string{"GOMEMLIMIT=" + strconv.FormatInt(h.cfg.SidecarMemory, 10), "GOMAXPROCS=" + strconv.Itoa(cpus)},
		CgroupDir: h.sidecars,
	}
	if u.gateway != nil {
		name := xdsname.Edge
		if !u.gateway.Edge {
			name = xdsname.GatewayListener(u.gateway.Name)
		}
		listen := runner.Listen{Name: name, Network: "tcp", Address: u.gateway.Listen}
		if path, ok := strings.CutPrefix(u.gateway.Listen, "unix:"); ok {
			listen.Network, listen.Address = "unix", path
		}
		spec.Listen = []runner.Listen{listen}
		return spec, nil, nil
	}

	local := &model.Local{
		ID: id, Service: u.service, Version: u.version,
		Inbound: map[string]string{}, Process: map[string]string{}, Uses: map[model.PortKey]string{},
	}
	get := func(key string, explicit int) (int, error) {
		n, err := h.ports.get(id+"/"+key, explicit, recheck)
		if err != nil {
			return 0, fmt.Errorf("instance %s: %w", id, err)
		}
		return n, nil
	}
	proc := &runner.Process{}
	for _, p := range u.spec.Ports {
		n, err := get("process/"+p.Name, p.Number)
		if err != nil {
			return spec, nil, err
		}
		in, err := get("inbound/"+p.Name, 0)
		if err != nil {
			return spec, nil, err
		}
		proc.Ports = append(proc.Ports, runner.Port{Name: p.Name, Number: n})
		local.Process[p.Name], local.Inbound[p.Name] = loopback(n), loopback(in)
		spec.Listen = append(spec.Listen, runner.Listen{Name: xdsname.InboundListener(p.Name), Network: "tcp", Address: loopback(in)})
	}
	n, err := get("outbound", 0)
	if err != nil {
		return spec, nil, err
	}
	local.Outbound = loopback(n)
	spec.Listen = append(spec.Listen, runner.Listen{Name: xdsname.Outbound, Network: "tcp", Address: local.Outbound})
	for _, k := range u.uses {
		n, err := get("uses/"+k.Tenant+"/"+k.Name+"/"+k.Port, 0)
		if err != nil {
			return spec, nil, err
		}
		local.Uses[k] = loopback(n)
		spec.Listen = append(spec.Listen, runner.Listen{Name: xdsname.OutboundListener(k.Tenant, k.Name, k.Port), Network: "tcp", Address: loopback(n)})
	}
	if err := h.process(u, proc, local, services, environ); err != nil {
		return spec, nil, fmt.Errorf("instance %s: %w", id, err)
	}
	spec.Process = proc
	rules, err := h.intercept(u, id, &spec, local, get)
	if err != nil {
		return spec, nil, fmt.Errorf("instance %s: %w", id, err)
	}
	if rules != nil {
		u.rules[id] = *rules
	}
	return spec, local, nil
}

// process fills in how the process is run.
func (h *Host) process(u *unit, p *runner.Process, local *model.Local, services map[model.ServiceKey]*model.Service, environ []string) error {
	run := u.spec.Run
	lookup := func(name string) (string, bool) {
		switch name {
		case resource.VarStateDir:
			return h.cfg.StateDir, true
		case resource.VarInstanceDir:
			return h.dirOf(local.ID), true
		case resource.VarInstance:
			return local.ID, true
		}
		return "", false
	}
	for _, arg := range run.Command {
		s, err := resource.Expand(arg, lookup)
		if err != nil {
			return fmt.Errorf("command: %w", err)
		}
		p.Command = append(p.Command, s)
	}
	var err error
	if p.Dir, err = resource.Expand(run.Dir, lookup); err != nil {
		return fmt.Errorf("dir: %w", err)
	}
	if !filepath.IsAbs(p.Dir) {
		p.Dir = filepath.Join(filepath.Dir(h.cfg.StateDir), p.Dir)
	}
	env := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			env[k] = v
		}
	}
	if run.User != "" {
		var home map[string]string
		if p.User, home, err = asUser(run.User); err != nil {
			return err
		}
		maps.Copy(env, home)
	}
	for k, v := range told(local, p.Ports, services) {
		env[k] = v
	}
	for k, v := range run.Env { // what the user writes has the last word
		if env[k], err = resource.Expand(v, lookup); err != nil {
			return fmt.Errorf("env %s: %w", k, err)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		p.Env = append(p.Env, k+"="+env[k])
	}

	p.StartTimeout = resource.DefaultStartTimeout
	if run.Start != nil && run.Start.Timeout > 0 {
		p.StartTimeout = run.Start.Timeout
	}
	p.StopSignal, p.StopTimeout = resource.DefaultStopSignal, resource.DefaultStopTimeout
	if run.Stop != nil {
		if run.Stop.Signal != "" {
			p.StopSignal = run.Stop.Signal
		}
		if run.Stop.Timeout != nil {
			p.StopTimeout = *run.Stop.Timeout
		}
	}
	p.Restart = restart(run.Restart)
	return nil
}

// told is what a process is told about itself and about what it uses.
func told(local *model.Local, ports []runner.Port, services map[model.ServiceKey]*model.Service) map[string]string {
	env := map[string]string{
		"OUTRIGGER_INSTANCE": local.ID, "OUTRIGGER_SERVICE": local.Service.Name, "OUTRIGGER_VERSION": local.Version,
		"OUTRIGGER_OUTBOUND": "http://" + local.Outbound,
	}
	for i, p := range ports {
		if i == 0 {
			env["PORT"] = strconv.Itoa(p.Number)
		}
		env[resource.PortVar(p.Name)] = strconv.Itoa(p.Number)
	}
	for k, addr := range local.Uses {
		protocol, first := resource.HTTP, false
		if s := services[k.ServiceKey]; s != nil {
			if p, ok := s.Port(k.Port); ok {
				protocol = p.Protocol
			}
			first = len(s.Ports) > 0 && s.Ports[0].Name == k.Port
		}
		url := scheme(protocol) + "://" + addr
		urlVar, addrVar := resource.ServiceVars(k.Name + "-" + k.Port)
		env[urlVar], env[addrVar] = url, addr
		if first {
			urlVar, addrVar = resource.ServiceVars(k.Name)
			env[urlVar], env[addrVar] = url, addr
		}
	}
	return env
}

func scheme(p resource.Protocol) string {
	switch p {
	case resource.WebSocket:
		return "ws"
	case resource.TCP:
		return "tcp"
	}
	return "http"
}

// restart translates the restart policy, with its defaults.
func restart(r *resource.Restart) runner.Restart {
	out := runner.Restart{
		When: runner.Permanent, Max: resource.DefaultRestartMax, Within: resource.DefaultRestartWithin,
		Backoff: backoff.Policy{Kind: resource.DefaultRestartBackoff, Base: resource.DefaultRestartBase, Max: resource.DefaultRestartLongest},
	}
	if r == nil {
		return out
	}
	if r.When != "" {
		out.When = runner.When(r.When)
	}
	if r.Max != nil {
		out.Max = *r.Max
	}
	if r.Within > 0 {
		out.Within = r.Within
	}
	if b := r.Backoff; b != nil {
		if b.Kind != "" {
			out.Backoff.Kind = backoff.Kind(b.Kind)
		}
		if b.Base > 0 {
			out.Backoff.Base = b.Base
		}
		if b.Max > 0 {
			out.Backoff.Max = b.Max
		}
		out.Backoff.Max = max(out.Backoff.Max, out.Backoff.Base)
		if b.Jitter != nil && *b.Jitter >= 0.5 {
			out.Backoff.Jitter = backoff.Full // the runner knows none and full: the nearer one
		}
	}
	return out
}

// bootstrap is the sidecar's: an Envoy v3 bootstrap that takes all configuration from the control plane.
func (h *Host) bootstrap(u *unit, id string) ([]byte, error) {
	type object = map[string]any
	kind := "sidecar"
	meta := object{"tenant": u.service.Tenant, "service": u.service.Name, "version": u.version}
	if u.gateway != nil {
		kind = "gateway"
		meta = object{"tenant": u.service.Tenant}
	}
	meta["kind"] = kind
	node := object{"id": id, "cluster": u.service.Name, "metadata": object{xdsname.MetadataKey: meta}}
	if h.cfg.Zone != "" {
		node["locality"] = object{"zone": h.cfg.Zone}
	}
	pipe := func(path string) object { return object{"pipe": object{"path": path}} }
	b := object{
		"node":  node,
		"admin": object{"address": pipe(filepath.Join(h.dirOf(id), "console.sock"))},
		"dynamic_resources": object{
			"ads_config": object{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3",
				"grpc_services": []any{object{"envoy_grpc": object{"cluster_name": NodeClusterADS}}},
			},
			"lds_config": object{"resource_api_version": "V3", "ads": object{}},
			"cds_config": object{"resource_api_version": "V3", "ads": object{}},
		},
		"static_resources": object{"clusters": []any{object{
			"name": NodeClusterADS, "type": "STATIC", "connect_timeout": "1s",
			"typed_extension_protocol_options": object{
				"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
					"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
					"explicit_http_config": object{"http2_protocol_options": object{}},
				},
			},
			"load_assignment": object{"cluster_name": NodeClusterADS, "endpoints": []any{object{"lb_endpoints": []any{
				object{"endpoint": object{"address": pipe(filepath.Join(h.cfg.StateDir, "ads.sock"))}},
			}}}},
		}}},
	}
	out, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the bootstrap of %s: %w", id, err)
	}
	return append(out, '\n'), nil
}

// writeBootstrap puts it in the instance's directory, unless it is there already.
func (h *Host) writeBootstrap(u *unit, id string) error {
	b, err := h.bootstrap(u, id)
	if err != nil {
		return err
	}
	dir := h.dirOf(id)
	path := filepath.Join(dir, "bootstrap.json")
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err = os.MkdirAll(dir, 0o700); err == nil {
		if err = os.WriteFile(path+".new", b, 0o600); err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if err != nil {
		return fmt.Errorf("write the bootstrap of %s: %w", id, err)
	}
	return nil
}
