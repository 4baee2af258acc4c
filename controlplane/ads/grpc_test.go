package ads

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/xds"

	"github.com/outrigger-mesh/outrigger/discovery"
)

// A proxyless gRPC client reaches a real server by its service's name, and follows when the endpoint changes.
func TestProxylessGRPC(t *testing.T) {
	m := start(t)
	serve := func() (addr string, stop func()) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		healthpb.RegisterHealthServer(s, health.NewServer())
		go func() { _ = s.Serve(l) }()
		return l.Addr().String(), s.Stop
	}
	first, stopFirst := serve()
	t.Cleanup(stopFirst)
	m.in.Discovered = []discovery.Endpoint{endpoint(t, "greeter-1.0.0-0", "greeter", "1.0.0", "grpc", discovery.GRPC, first)}
	m.apply(services)

	bootstrap := fmt.Sprintf(`{"xds_servers": [{"server_uri": "unix:%s", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": %q}}`, m.path, SignForeign(secret, Foreign{KindGRPC, "default", "front"}))
	r, err := xds.NewXDSResolverWithConfigForTesting([]byte(bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"xds:///greeter", "xds:///greeter:grpc"} {
		t.Run(target, func(t *testing.T) {
			c, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(r))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
			if target != "xds:///greeter" {
				return
			}
			second, stopSecond := serve()
			m.t.Cleanup(stopSecond) // the other target needs it too
			m.in.Discovered[0] = endpoint(t, "greeter-1.0.0-0", "greeter", "1.0.0", "grpc", discovery.GRPC, second)
			m.push()
			stopFirst()
			if _, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, n := range m.Status() {
		for _, r := range n.Resources {
			if r.Rejected != nil {
				t.Errorf("%s %s: %s", r.TypeURL, r.Name, r.Rejected.Reason)
			}
		}
	}
}
