package snapshot

import (
	"net/netip"
	"testing"
)

func prefixesOf(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// The order of the conditions and what "most specific" means are those of Envoy's FilterChainMatch; there is no way back from
// a condition that was decided.
func TestFrontMatch(t *testing.T) {
	chains := map[string]ChainMatch{
		"port":       {DestinationPort: 8443},
		"port+name":  {DestinationPort: 8443, ServerNames: []string{"a.example.com"}},
		"dest":       {Destinations: prefixesOf("10.0.0.0/8")},
		"dest long":  {Destinations: prefixesOf("192.168.0.0/16", "10.1.0.0/16")},
		"name":       {ServerNames: []string{"a.example.com"}},
		"suffix":     {ServerNames: []string{"*.example.com"}},
		"longer":     {ServerNames: []string{"*.b.example.com"}},
		"tls":        {Transport: "tls"},
		"raw h2":     {Transport: "raw_buffer", Protocols: []string{"h2c"}},
		"alpn":       {Transport: "tls", Protocols: []string{"h2", "x"}},
		"direct":     {Transport: "raw_buffer", DirectSources: prefixesOf("172.16.0.0/12")},
		"local":      {Transport: "raw_buffer", SourceType: LocalSource},
		"source":     {Transport: "raw_buffer", SourceType: ExternalSource, Sources: prefixesOf("203.0.113.0/24")},
		"sourceport": {Transport: "raw_buffer", SourceType: ExternalSource, Sources: prefixesOf("203.0.113.0/24"), SourcePorts: []uint16{53, 54}},
	}
	f := &Front{Default: &Listener{Name: "default"}}
	for n, m := range chains {
		f.Chains = append(f.Chains, Chain{Key: n, Match: m, Listener: &Listener{Name: n}})
	}
	ap := netip.MustParseAddrPort
	for want, p := range map[string]Preface{
		"port":       {Local: ap("10.1.0.1:8443"), Peer: ap("203.0.113.1:1"), Direct: ap("203.0.113.1:1"), TLS: true, ServerName: "b.example.com"},
		"port+name":  {Local: ap("10.1.0.1:8443"), TLS: true, ServerName: "a.example.com"},
		"dest":       {Local: ap("10.2.0.1:80"), TLS: true, ServerName: "a.example.com"},
		"dest long":  {Local: ap("10.1.0.1:80")},
		"name":       {Local: ap("1.1.1.1:80"), TLS: true, ServerName: "a.example.com"},
		"suffix":     {Local: ap("1.1.1.1:80"), TLS: true, ServerName: "c.example.com"},
		"longer":     {Local: ap("1.1.1.1:80"), TLS: true, ServerName: "x.b.example.com"},
		"tls":        {Local: ap("1.1.1.1:80"), TLS: true, ServerName: "example.com", Protocols: []string{"http/1.1"}},
		"alpn":       {Local: ap("1.1.1.1:80"), TLS: true, Protocols: []string{"http/1.1", "h2"}},
		"raw h2":     {Local: ap("1.1.1.1:80"), Protocols: []string{"h2c"}},
		"direct":     {Local: ap("1.1.1.1:80"), Direct: ap("172.17.0.1:1"), Peer: ap("127.0.0.1:1")},
		"local":      {Local: ap("1.1.1.1:80"), Direct: ap("1.1.1.1:1"), Peer: ap("1.1.1.1:1")},
		"source":     {Local: ap("1.1.1.1:80"), Direct: ap("1.1.1.2:1"), Peer: ap("203.0.113.9:9999")},
		"sourceport": {Local: ap("1.1.1.1:80"), Direct: ap("1.1.1.2:1"), Peer: ap("[::ffff:203.0.113.9]:54")},
		"default":    {Local: ap("1.1.1.1:80"), Direct: ap("1.1.1.2:1"), Peer: ap("198.51.100.1:1")},
	} {
		t.Run(want, func(t *testing.T) {
			l := f.Match(&p)
			if l == nil || l.Name != want {
				t.Errorf("%v", l)
			}
		})
	}
	f.Default = nil
	if l := f.Match(&Preface{Local: ap("1.1.1.1:80"), Direct: ap("1.1.1.2:1"), Peer: ap("198.51.100.1:1")}); l != nil {
		t.Error(l.Name)
	}
}
