package consul

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"
	"github.com/outrigger-mesh/outrigger/discovery"
)

// What a registration of ours says in its meta. A port is port-NAME = "PROTOCOL HOST:PORT". metaCheck is what the checks
// were made from, so that a change of it is seen.
const (
	metaOurs    = "outrigger" // "1"
	metaService = "service"
	metaTenant  = "tenant"
	metaVersion = "version"
	metaHost    = "host"
	metaZone    = "zone"
	metaCheck   = "outrigger-check"
	metaPort    = "port-"
	// metaProtocol is what a foreign registration may say.
	metaProtocol = "protocol"
)

// Consul's limits for meta (https://developer.hashicorp.com/consul/docs/reference/service).
const (
	maxMetaPairs = 64
	maxMetaKey   = 128
	maxMetaValue = 512
)

// Port is one port of an instance.
type Port struct {
	// Name is the port's name: letters, digits, '-' and '_'.
	Name string
	// Protocol is what is spoken there; "" is http.
	Protocol discovery.Protocol
	// Addr is where the instance's inbound sidecar listens for it.
	Addr netip.AddrPort
}

// Instance is one of our own, as it is to stand in the catalog.
type Instance struct {
	// ID is the instance's id. It is the registration's too, so it must be unique at one agent.
	ID string
	// Tenant owns the service; "" is "default".
	Tenant string
	// Service and Version name what it is an instance of.
	Service, Version string
	// Host is this host's name, Zone its zone or "".
	Host, Zone string
	// Ports are its ports, at least one; the first is the one that programs which know nothing of Outrigger see.
	Ports []Port
	// Weight is its share of calls, 1 to 65535; 0 is 1.
	Weight uint32
	// HealthURL is what the agent GETs to check it, besides connecting to every port; "" does without.
	HealthURL string
	// Metadata is further meta; its keys must not be ours.
	Metadata map[string]string
}

// CatalogName is what a service is called in the catalog: its name, with the tenant before it where that is not "default".
func CatalogName(tenant, service string) string {
	if tenant == "" || tenant == discovery.DefaultTenant {
		return service
	}
	return tenant + "." + service
}

var (
	metaKeyChars = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	versionTag   = regexp.MustCompile(`^v?(\d+\.\d+(?:\.\d+)?(?:[-+][0-9A-Za-z.+-]+)?)$`)
)

// Validate returns all that is wrong with the instance, or nil.
func (i Instance) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if i.ID == "" || strings.ContainsAny(i.ID, "/ ") {
		bad("id %q: must not be empty or contain slashes or spaces", i.ID)
	}
	if i.Service == "" {
		bad("no service")
	}
	if len(i.Ports) == 0 {
		bad("no port")
	}
	seen := map[string]bool{}
	for _, p := range i.Ports {
		if !metaKeyChars.MatchString(p.Name) || len(metaPort+p.Name) > maxMetaKey {
			bad("port name %q: want letters, digits, '-' and '_'", p.Name)
		}
		if seen[p.Name] {
			bad("two ports named %q", p.Name)
		}
		seen[p.Name] = true
		if p.Protocol != "" && !p.Protocol.Valid() {
			bad("port %q: protocol %q: want http, grpc, websocket, tcp or auto", p.Name, p.Protocol)
		}
		if !p.Addr.IsValid() || p.Addr.Port() == 0 || p.Addr.Addr().IsUnspecified() {
			bad("port %q: address %v: want one that others can connect to", p.Name, p.Addr)
		}
	}
	if i.Weight > 65535 {
		bad("weight %d: at most 65535", i.Weight)
	}
	if i.HealthURL != "" {
		if u, err := url.Parse(i.HealthURL); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			bad("health URL %q: want http://… or https://…", i.HealthURL)
		}
	}
	for k := range i.Metadata {
		if reserved(k) {
			bad("metadata %q: the key is one of Outrigger's own", k)
		}
	}
	if len(errs) == 0 {
		meta := i.meta(Options{})
		if len(meta) > maxMetaPairs {
			bad("%d ports and metadata: Consul takes at most %d", len(meta), maxMetaPairs)
		}
		for k, v := range meta {
			if !metaKeyChars.MatchString(k) || len(k) > maxMetaKey || len(v) > maxMetaValue {
				bad("metadata %q: Consul takes keys of %d letters, digits, '-' and '_', and values of %d bytes", k, maxMetaKey, maxMetaValue)
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("instance %q: %w", i.ID, errors.Join(errs...))
}

// inHost is the instance with a host, where it names none.
func (i Instance) inHost(host string) Instance {
	if i.Host == "" {
		i.Host = host
	}
	return i
}

func reserved(key string) bool {
	switch key {
	case metaOurs, metaService, metaTenant, metaVersion, metaHost, metaZone, metaCheck:
		return true
	}
	return strings.HasPrefix(key, metaPort)
}

func (i Instance) meta(o Options) map[string]string {
	m := map[string]string{
		metaOurs:    "1",
		metaService: i.Service,
		metaTenant:  i.Tenant,
		metaVersion: i.Version,
		metaHost:    i.Host,
		metaCheck:   fmt.Sprintf("%v %v %v %s", o.CheckInterval, o.CheckTimeout, o.DeregisterAfter, i.HealthURL),
	}
	if i.Tenant == "" {
		m[metaTenant] = discovery.DefaultTenant
	}
	if i.Zone != "" {
		m[metaZone] = i.Zone
	}
	for _, p := range i.Ports {
		protocol := p.Protocol
		if protocol == "" {
			protocol = discovery.HTTP
		}
		m[metaPort+p.Name] = string(protocol) + " " + p.Addr.String()
	}
	maps.Copy(m, i.Metadata)
	return m
}

// registration is the instance as the agent takes it.
func (i Instance) registration(o Options) *api.AgentServiceRegistration {
	weight := max(int(i.Weight), 1)
	r := &api.AgentServiceRegistration{
		ID:      i.ID,
		Name:    CatalogName(i.Tenant, i.Service),
		Address: i.Ports[0].Addr.Addr().String(),
		Port:    int(i.Ports[0].Addr.Port()),
		Meta:    i.meta(o),
		Weights: &api.AgentWeights{Passing: weight, Warning: weight},
	}
	check := func(name string) *api.AgentServiceCheck {
		c := &api.AgentServiceCheck{
			CheckID: "outrigger:" + i.ID + ":" + name, Name: "sidecar " + name,
			Interval: o.CheckInterval.String(), Timeout: o.CheckTimeout.String(),
			// An instance is registered once it is healthy, and the first check may be an interval away.
			Status:                         api.HealthPassing,
			DeregisterCriticalServiceAfter: o.DeregisterAfter.String(),
		}
		r.Checks = append(r.Checks, c)
		return c
	}
	for _, p := range i.Ports {
		check("tcp-" + p.Name).TCP = p.Addr.String()
	}
	if i.HealthURL != "" {
		check("http").HTTP = i.HealthURL
	}
	return r
}

// registered says whether the agent holds r as it should be.
func registered(have *api.AgentService, r *api.AgentServiceRegistration) bool {
	return have.Service == r.Name && have.Address == r.Address && have.Port == r.Port &&
		have.Weights == *r.Weights && len(have.Tags) == 0 && maps.Equal(have.Meta, r.Meta)
}

// endpoints reads one entry of the catalog; none where it is no service that can be called (a proxy of Consul's own mesh, or
// one without a port).
func endpoints(e *api.ServiceEntry) []discovery.Endpoint {
	if e.Service == nil || e.Node == nil || e.Service.Kind != api.ServiceKindTypical {
		return nil
	}
	svc := e.Service
	base := discovery.Endpoint{
		ID: e.Node.Node + "/" + svc.ID, Tenant: discovery.DefaultTenant, Service: svc.Service, Version: svc.Meta[metaVersion],
		Host: e.Node.Node, Zone: svc.Meta[metaZone], Weight: 1,
	}
	if base.Zone == "" && svc.Locality != nil {
		base.Zone = svc.Locality.Zone
	}
	if base.Zone == "" {
		base.Zone = e.Node.Meta[metaZone]
	}
	weight := svc.Weights.Passing
	switch e.Checks.AggregatedStatus() {
	case api.HealthPassing:
		base.Health = discovery.Healthy
	case api.HealthWarning:
		base.Health = discovery.Degraded
		weight = svc.Weights.Warning
	default: // critical, or in maintenance
		base.Health = discovery.Unhealthy
	}
	if weight > 0 {
		base.Weight = uint32(min(weight, 65535))
	}
	if svc.Meta[metaOurs] == "1" {
		return ourEndpoints(base, svc)
	}
	return foreignEndpoint(base, e)
}

func ourEndpoints(base discovery.Endpoint, svc *api.AgentService) (out []discovery.Endpoint) {
	base.Ours, base.Instance = true, svc.ID
	if s := svc.Meta[metaService]; s != "" {
		base.Service = s
	}
	if t := svc.Meta[metaTenant]; t != "" {
		base.Tenant = t
	}
	if h := svc.Meta[metaHost]; h != "" {
		base.Host = h
	}
	for k, v := range svc.Meta {
		if !reserved(k) {
			if base.Metadata == nil {
				base.Metadata = map[string]string{}
			}
			base.Metadata[k] = v
		}
	}
	for _, k := range slices.Sorted(maps.Keys(svc.Meta)) {
		name, ok := strings.CutPrefix(k, metaPort)
		if !ok {
			continue
		}
		protocol, addr, _ := strings.Cut(svc.Meta[k], " ")
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			continue
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || !discovery.Protocol(protocol).Valid() {
			continue // a newer version's, perhaps: the other ports are still good
		}
		e := base
		e.PortName, e.Protocol, e.Address, e.Port = name, discovery.Protocol(protocol), host, uint16(n)
		out = append(out, e)
	}
	return out
}

func foreignEndpoint(e discovery.Endpoint, entry *api.ServiceEntry) []discovery.Endpoint {
	svc := entry.Service
	if svc.Port <= 0 || svc.Port > 65535 {
		return nil
	}
	e.Port = uint16(svc.Port)
	if e.Address = svc.Address; e.Address == "" {
		e.Address = entry.Node.Address // as Consul's own DNS does
	}
	e.Protocol = discovery.Protocol(strings.ToLower(svc.Meta[metaProtocol]))
	for _, tag := range svc.Tags {
		if p := discovery.Protocol(strings.ToLower(tag)); !e.Protocol.Valid() && p.Valid() {
			e.Protocol = p
		}
		if e.Version == "" {
			if v, ok := strings.CutPrefix(tag, "version="); ok {
				e.Version = v
			} else if m := versionTag.FindStringSubmatch(tag); m != nil {
				e.Version = m[1]
			}
		}
	}
	if !e.Protocol.Valid() {
		e.Protocol = discovery.HTTP
	}
	e.PortName = string(e.Protocol)
	if len(svc.Meta) > 0 {
		e.Metadata = maps.Clone(svc.Meta)
	}
	return []discovery.Endpoint{e}
}
