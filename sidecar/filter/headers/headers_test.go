package headers

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

func value(t testing.TB, s string, response bool) Value {
	v, err := Parse(s, response)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func request() *exchange.Exchange {
	x := &exchange.Exchange{Proto: exchange.HTTP2, Peer: netip.MustParseAddrPort("10.0.0.9:4711")}
	x.Client = netip.MustParseAddr("192.0.2.7")
	x.Req.Method, x.Req.Path, x.Req.Authority, x.Req.Scheme = "GET", "/a?b=1", "orders", "https"
	x.Req.Header.Add("x-user", "ann")
	x.Route = &snapshot.Route{Name: "checkout"}
	return x
}

func TestActions(t *testing.T) {
	for _, tc := range []struct {
		name string
		op   Op
		want string
	}{
		{"append beside", Op{Action: Append, Name: "x-user", Value: value(t, "bob", false)}, "x-user=ann x-user=bob"},
		{"append new", Op{Action: Append, Name: "x-new", Value: value(t, "1", false)}, "x-user=ann x-new=1"},
		{"add if absent, present", Op{Action: AddIfAbsent, Name: "x-user", Value: value(t, "bob", false)}, "x-user=ann"},
		{"add if absent, absent", Op{Action: AddIfAbsent, Name: "x-new", Value: value(t, "1", false)}, "x-user=ann x-new=1"},
		{"overwrite", Op{Action: Overwrite, Name: "x-user", Value: value(t, "bob", false)}, "x-user=bob"},
		{"overwrite new", Op{Action: Overwrite, Name: "x-new", Value: value(t, "1", false)}, "x-user=ann x-new=1"},
		{"overwrite if exist, absent", Op{Action: OverwriteIfExist, Name: "x-new", Value: value(t, "1", false)}, "x-user=ann"},
		{"remove", Op{Action: Remove, Name: "x-user"}, ""},
		{"empty is left out", Op{Action: Append, Name: "x-new", Value: value(t, "", false)}, "x-user=ann"},
		{"empty is kept", Op{Action: Append, Name: "x-new", Value: value(t, "", false), KeepEmpty: true}, "x-user=ann x-new="},
		{"absent source", Op{Action: Append, Name: "x-new", Value: value(t, "%REQ(x-none)%", false)}, "x-user=ann"},
	} {
		x := request()
		New([]Op{tc.op}, nil).Request(x)
		var got []string
		for _, f := range x.Req.Header.Fields {
			if f.Flags&exchange.Dropped == 0 {
				got = append(got, f.Name+"="+f.Value)
			}
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, s, tc.want)
		}
	}
}

func TestTemplates(t *testing.T) {
	for _, tc := range []struct{ template, want string }{
		{"plain", "plain"},
		{"100%%", "100%"},
		{"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "192.0.2.7"},
		{"%DOWNSTREAM_REMOTE_ADDRESS%", "192.0.2.7:4711"},
		{"u=%REQ(X-User)%;m=%REQ(:method)%;p=%REQ(:path)%;a=%REQ(:authority)%", "u=ann;m=GET;p=/a?b=1;a=orders"},
		{"%REQ(x-none)% and %PROTOCOL% via %ROUTE_NAME%", "- and HTTP/2 via checkout"},
		{"%RESPONSE_CODE% %RESPONSE_FLAGS%", "503 UH,UF"},
	} {
		x := request()
		x.Resp.Status, x.Flags = 503, exchange.NoHealthyUpstream|exchange.UpstreamConnectionFailure
		New(nil, []Op{{Action: Overwrite, Name: "x-out", Value: value(t, tc.template, true)}}).Response(x)
		if got, _ := x.Resp.Header.Get("x-out"); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.template, got, tc.want)
		}
	}
}

func TestBadTemplates(t *testing.T) {
	for _, s := range []string{"50%", "%UPSTREAM_HOST%", "%REQ()%", "%REQ(a?b)%", "%RESPONSE_CODE%", "%RESPONSE_FLAGS%", "a\r\nb", "%REQ(a)"} {
		if _, err := Parse(s, false); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	f := New([]Op{
		{Action: Remove, Name: "x-debug"},
		{Action: Overwrite, Name: "x-team", Value: value(t, "shop", false)},
		{Action: Append, Name: "x-from", Value: value(t, "%DOWNSTREAM_REMOTE_ADDRESS%/%REQ(x-user)%/%PROTOCOL%/%ROUTE_NAME%", false)},
	}, []Op{{Action: Append, Name: "x-code", Value: value(t, "%RESPONSE_CODE% %RESPONSE_FLAGS%", true)}})
	x, r := request(), &snapshot.Route{Name: "checkout"}
	client, peer := x.Client, x.Peer
	if a := testing.AllocsPerRun(100, func() {
		x.Reset()
		x.Client, x.Peer, x.Route = client, peer, r
		x.Req.Header.Add("x-user", "ann")
		x.Req.Header.Add("x-debug", "1")
		f.Request(x)
		x.Resp.Status, x.Flags = 429, exchange.RateLimited
		f.Response(x)
		f.End(x)
	}); a != 0 {
		t.Fatalf("%v allocations", a)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "a%%b", "%REQ(x)%", "%", "%PROTOCOL%x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := Parse(s, true)
		if err != nil {
			return
		}
		if _, ok := v.render(request()); !ok && !strings.HasPrefix(s, "%REQ(") {
			t.Fatalf("%q did not render", s)
		}
	})
}
