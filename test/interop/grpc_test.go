package interop

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/outrigger-mesh/outrigger/test/harness"
)

// caseEnv and addrEnv make this test's binary a client for one case: gRPC's own client ends its process where
// something is not as it should be.
const (
	caseEnv = "OUTRIGGER_INTEROP_CASE"
	addrEnv = "OUTRIGGER_INTEROP_ADDR"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(caseEnv); name != "" {
		os.Exit(client(name, os.Getenv(addrEnv)))
	}
	goleak.VerifyTestMain(m)
}

type call func(ctx context.Context, conn *grpc.ClientConn, tc testgrpc.TestServiceClient)

// grpcCases are all of google.golang.org/grpc/interop/client but those that need Google's credentials.
var grpcCases = map[string]call{
	"empty_unary": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoEmptyUnaryCall(ctx, tc)
	},
	"large_unary": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoLargeUnaryCall(ctx, tc)
	},
	"client_streaming": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoClientStreaming(ctx, tc)
	},
	"server_streaming": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoServerStreaming(ctx, tc)
	},
	"ping_pong": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoPingPong(ctx, tc)
	},
	"empty_stream": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoEmptyStream(ctx, tc)
	},
	"timeout_on_sleeping_server": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoTimeoutOnSleepingServer(ctx, tc)
	},
	"cancel_after_begin": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoCancelAfterBegin(ctx, tc)
	},
	"cancel_after_first_response": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoCancelAfterFirstResponse(ctx, tc)
	},
	"status_code_and_message": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoStatusCodeAndMessage(ctx, tc)
	},
	"special_status_message": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoSpecialStatusMessage(ctx, tc)
	},
	"custom_metadata": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoCustomMetadata(ctx, tc)
	},
	"unimplemented_method": func(ctx context.Context, conn *grpc.ClientConn, _ testgrpc.TestServiceClient) {
		interop.DoUnimplementedMethod(ctx, conn)
	},
	"unimplemented_service": func(ctx context.Context, conn *grpc.ClientConn, _ testgrpc.TestServiceClient) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
	},
	"pick_first_unary": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoPickFirstUnary(ctx, tc)
	},
	"rpc_soak": func(ctx context.Context, conn *grpc.ClientConn, _ testgrpc.TestServiceClient) {
		interop.DoSoakTest(ctx, soak(func() (*grpc.ClientConn, func()) { return conn, func() {} }))
	},
	"channel_soak": func(ctx context.Context, conn *grpc.ClientConn, _ testgrpc.TestServiceClient) {
		interop.DoSoakTest(ctx, soak(func() (*grpc.ClientConn, func()) {
			c, err := dial(conn.Target())
			if err != nil {
				panic(err)
			}
			return c, func() { _ = c.Close() }
		}))
	},
	"orca_per_rpc": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoORCAPerRPCTest(ctx, tc)
	},
	"orca_oob": func(ctx context.Context, _ *grpc.ClientConn, tc testgrpc.TestServiceClient) {
		interop.DoORCAOOBTest(ctx, tc)
	},
}

func soak(channel func() (*grpc.ClientConn, func())) interop.SoakTestConfig {
	return interop.SoakTestConfig{
		RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: 30 * time.Second, OverallTimeout: 60 * time.Second,
		NumWorkers: 2, Iterations: 20, ChannelForTest: channel,
	}
}

func dial(addr string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
}

func client(name, addr string) int {
	do := grpcCases[name]
	var opts []grpc.DialOption
	if strings.HasPrefix(name, "orca") { // the balancer of gRPC's own test reads the load reports that the server sends
		opts = append(opts, grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`))
	}
	conn, err := dial(addr, opts...)
	if do == nil || err != nil {
		fmt.Fprintln(os.Stderr, "no such case, or no connection:", name, err)
		return 2
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	do(ctx, conn, testgrpc.NewTestServiceClient(conn))
	return 0
}

// runCase runs one case in a process of its own, against addr.
func runCase(t *testing.T, name, addr string) (string, error) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), caseEnv+"="+name, addrEnv+"=passthrough:///"+addr, "GRPC_GO_LOG_SEVERITY_LEVEL=error")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// grpcServer runs gRPC's own interop server.
func grpcServer(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-p", "2", "-o", bin, "google.golang.org/grpc/interop/server").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	addr := harness.FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	run(t, bin, "-port", port)
	accepts(t, addr)
	return addr
}

// TestGRPC runs gRPC's interop cases through a caller's and a callee's sidecar. What fails through them may do so only
// where it fails without them as well.
func TestGRPC(t *testing.T) {
	server := grpcServer(t)
	for name, binary := range map[string]string{"plain": plain(t), "race": raced(t)} {
		t.Run(name, func(t *testing.T) {
			in, _, _ := pair(t, binary, server, http2, http2)
			passed := 0
			for name := range grpcCases {
				t.Run(name, func(t *testing.T) {
					out, err := runCase(t, name, in)
					if err == nil {
						passed++
						return
					}
					if _, direct := runCase(t, name, server); direct != nil {
						t.Skipf("fails without sidecars too: %v", direct)
					}
					t.Errorf("%v\n%s", err, out)
				})
			}
			if passed < len(grpcCases)-2 { // pick_first_unary asks for more than one server
				t.Errorf("%d of %d cases passed", passed, len(grpcCases))
			}
		})
	}
}

// TestGRPCClients lets gRPC in Python and Node call gRPC's interop server through two sidecars; each counts what was right.
func TestGRPCClients(t *testing.T) {
	in, _, _ := pair(t, raced(t), grpcServer(t), http2, http2)
	const want = "empty 20 unary 10 output 12 input 3 duplex 9 status 4 deadline 2 metadata 2 unimplemented 2"
	dir, err := filepath.Abs(filepath.Join("testdata", "peers"))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("python", func(t *testing.T) {
		if got := strings.Join(strings.Fields(say(t, installed(t, "venv/bin/python"), filepath.Join(dir, "grpc_client.py"), in)), " "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
	t.Run("node", func(t *testing.T) {
		if _, err := exec.LookPath("npm"); err != nil { // Debian's brings some four hundred packages
			t.Skip("npm is not installed, so gRPC for Node is not")
		}
		t.Setenv("NODE_PATH", installed(t, "node_modules"))
		if got := strings.Join(strings.Fields(say(t, harness.Need(t, "node"), filepath.Join(dir, "grpc_client.js"), in)), " "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}
