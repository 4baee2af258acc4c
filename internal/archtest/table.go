package archtest

// hotStd is what a request must not meet: it allocates, reflects, locks or formats.
var hotStd = []string{"fmt", "encoding/...", "reflect", "regexp/...", "net/http/...", "log/...", "html/...", "text/template/...", "database/sql/..."}

const (
	hot = "on the path of every request: compiled values only, nothing that reflects, formats or allocates; " +
		"what is slow or can fail belongs to sidecar/compile"
	envoy   = "github.com/envoyproxy/go-control-plane/envoy"
	control = "github.com/envoyproxy/go-control-plane"
)

// Table returns the rules of this module. A new row comes with its reason; a loosened one with a decision
// record.
func Table() Rules {
	return Rules{
		Names:     []string{"util", "utils", "common", "helper", "helpers", "types", "manager", "misc", "shared", "base"},
		Generated: []string{"api/outrigger/v1", "examples/shop/proto"},
		Rows: []Row{
			// Leaves.
			{
				Package: "internal/...", Ours: []string{"internal/..."},
				Reason: "internal is what everybody may stand on, so it stands on nothing of ours",
			},
			{
				Package: "internal/archtest", Ours: []string{}, Modules: []string{},
				Reason: "the check of imports needs the standard library alone",
			},
			{
				Package: "internal/xdsname", Ours: []string{}, Modules: []string{},
				Reason: "shared by control plane and sidecar: names, and nothing that either would drag in",
			},
			{
				Package: "internal/handoff/...", Ours: []string{"internal/..."}, Modules: []string{},
				Reason: "linked into the runner, whose memory and start time every instance pays",
			},
			{
				Package: "internal/unixsock/...", Ours: []string{"internal/..."}, Modules: []string{"golang.org/x/sys"},
				Reason: "linked into the runner, whose memory and start time every instance pays",
			},
			{
				Package: "balancer/...", Ours: []string{"internal/..."}, Modules: []string{},
				Std:    []string{"encoding/...", "reflect", "regexp/...", "net/http/...", "log/..."},
				Reason: "a balancer knows endpoints, not protocols, connections or xDS, and its Pick neither blocks nor allocates",
			},
			{
				Package: "balancer/consistenthash", Ours: []string{"balancer/...", "internal/..."},
				Modules: []string{"github.com/buraksezer/consistent", "github.com/cespare/xxhash/v2"},
				Std:     []string{"encoding/...", "reflect", "regexp/...", "net/http/...", "log/..."},
				Reason:  "a balancer knows endpoints only; this one may stand on buraksezer/consistent and xxhash by name",
			},

			// The data path.
			{Package: "sidecar/loop", Ours: []string{"internal/..."}, Modules: []string{"golang.org/x/sys"}, Std: hotStd, Reason: hot},
			{Package: "sidecar/exchange", Ours: []string{"balancer", "internal/..."}, Modules: []string{}, Std: hotStd, Reason: hot},
			{Package: "sidecar/snapshot", Ours: []string{"sidecar/exchange", "balancer/...", "internal/..."}, Modules: []string{}, Std: hotStd, Reason: hot},
			{Package: "sidecar/filter/...", Ours: hotBelow, Modules: []string{}, Std: hotStd, Reason: hot},
			{Package: "sidecar/limit/...", Ours: hotBelow, Modules: []string{}, Std: hotStd, Reason: hot},
			{Package: "sidecar/upstream/...", Ours: hotBelow, Modules: []string{"golang.org/x/sys"}, Std: hotStd, Reason: hot},
			{
				Package: "sidecar/upstream/breaker", Ours: append([]string{"sidecar/upstream"}, hotBelow...),
				Modules: []string{"github.com/sony/gobreaker/v2"}, Std: hotStd, Reason: hot,
			},
			{Package: "sidecar/proxy/...", Ours: allHot, Modules: []string{"golang.org/x/sys"}, Std: hotStd, Reason: hot},
			{
				Package: "sidecar/proxy", Ours: append([]string{"sidecar/proxy/..."}, allHot...), Modules: []string{"golang.org/x/sys"},
				Std: []string{"encoding/...", "reflect", "regexp/...", "net/http/...", "html/...", "text/template/...", "database/sql/..."},
				Reason: "what puts the data path together opens listeners and reports what went wrong, so it may format and log; " +
					"the rest holds, for it also accepts connections and counts exchanges",
			},
			{
				Package: "sidecar/proxy/http2", Ours: append([]string{"sidecar/proxy/..."}, allHot...),
				Modules: []string{"golang.org/x/sys", "golang.org/x/net/http2"}, Std: hotStd, Reason: hot,
			},
			{
				Package: "sidecar/probe", Ours: []string{"sidecar/upstream", "sidecar/snapshot", "internal/..."}, Modules: []string{"google.golang.org/grpc"},
				Reason: "health is asked beside the data path: the probe knows endpoints and how to ask them, and is no part of an exchange",
			},
			{
				Package: "sidecar/compile/...", Ours: append([]string{"sidecar/proxy/...", "api/outrigger/v1", "balancer/..."}, allHot...),
				Reason: "compile reads what any xDS server may send, so it knows the wire (Envoy's and our protobufs) and the " +
					"compiled types, not what users write (policy)",
			},
			{
				Package: "sidecar/...", Ours: []string{"sidecar/...", "balancer/...", "api/outrigger/v1", "internal/..."},
				Reason: "a sidecar knows xDS, never how policy is written, kept or supervised",
			},

			// What users write.
			{Package: "api/outrigger/v1", Ours: []string{}, Reason: "generated code stands alone"},
			{
				Package: "api/resource/...", Ours: []string{"policy/...", "tenancy/...", "chaos/...", "internal/..."},
				Reason: "the kinds are made of policy specs and know nothing of who stores or serves them",
			},
			{
				Package: "policy/...", Ours: []string{"internal/...", "api/outrigger/v1"},
				Reason: "a policy is a spec and how it is told in xDS; what it does lives in sidecar/filter",
			},
			{Package: "tenancy/...", Ours: []string{"internal/..."}, Reason: "tenants and identities are words that all others use"},
			{Package: "chaos/...", Ours: []string{"tenancy/...", "internal/..."}, Reason: "experiments are described here and carried out elsewhere"},
			{Package: "discovery/...", Ours: []string{"internal/...", "tenancy/..."}, Reason: "discovery says who is there, and not what that means"},

			// Processes.
			{
				Package: "supervisor/...", Ours: []string{"internal/..."},
				Reason: "supervision knows children, processes and events, not the mesh that they make",
			},
			{
				Package: "supervisor/process/...", Ours: []string{"internal/..."}, Modules: []string{},
				Reason: "linked into the runner, whose memory and start time every instance pays",
			},
			{
				Package: "supervisor/logfile/...", Ours: []string{"internal/..."}, Modules: []string{},
				Reason: "linked into the runner, whose memory and start time every instance pays",
			},
			{
				Package: "supervisor/runner/...", Ours: runnerMay, Modules: []string{},
				Reason: "the runner is one process an instance: its size and start are part of every instance's, so the standard library, internal, and two leaves of supervisor that obey the same",
			},

			// The control plane.
			{
				Package: "controlplane/model/...", Ours: []string{"api/resource/...", "policy/...", "discovery", "tenancy/...", "chaos/...", "internal/..."},
				Modules: []string{}, Reason: "the model is plain values: neither protobuf nor store reaches into it",
			},
			{
				Package: "controlplane/resolve/...", Ours: []string{"controlplane/model", "api/resource/...", "policy/...", "discovery", "tenancy/...", "chaos/...", "internal/..."},
				Reason: "resolve is a pure function of resources and discovery",
			},
			{
				Package: "controlplane/xds/...", Ours: []string{"controlplane/model", "api/resource", "policy/...", "api/outrigger/v1", "internal/..."},
				Reason: "xds is a pure function of the model",
			},
			{
				Package: "controlplane/ads/...", Ours: []string{"controlplane/model", "controlplane/xds", "controlplane/telemetry", "api/outrigger/v1", "internal/..."},
				Reason: "the ADS server serves what xds made and keeps no opinion of its own",
			},
			{
				Package: "controlplane/store/...", Ours: []string{"api/resource", "internal/..."},
				Reason: "a store keeps revisions and judges nothing",
			},
			{
				Package: "controlplane/intercept/...", Ours: []string{"internal/..."},
				Reason: "rules of the kernel's are made of plain values; who needs them is known to host",
			},
			{
				Package: "controlplane/host/...", Ours: []string{"controlplane/intercept", "controlplane/model", "controlplane/xds", "controlplane/resolve", "controlplane/store", "supervisor/...", "discovery/...", "api/...", "policy/...", "internal/..."},
				Reason: "the host turns the model into processes; it does not answer users or sidecars",
			},

			// Commands.
			{
				Package: "cmd/outrigger-runner/...", Ours: append([]string{"supervisor/runner/..."}, runnerMay...), Modules: []string{},
				Reason: "the runner is one process an instance: its size and start are part of every instance's, so the standard library, internal, and two leaves of supervisor that obey the same",
			},
			{
				Package: "cmd/outrigger-sidecar/...", Ours: []string{"sidecar/...", "balancer/...", "api/outrigger/v1", "internal/..."},
				Reason: "the data path alone, linking nothing that it does not need",
			},
		},
		Bans: []Ban{
			{
				From: []string{"sidecar/..."}, Import: []string{"./controlplane/...", "./policy/...", "./api/resource/..."}, Tests: true,
				Reason: "sidecar and control plane share xDS and internal/xdsname only, so that either can be replaced",
			},
			{
				From: []string{"controlplane/..."}, Import: []string{"./sidecar/..."}, Tests: true,
				Reason: "sidecar and control plane share xDS and internal/xdsname only, so that either can be replaced",
			},
			{
				From: []string{"supervisor/...", "balancer/..."}, Import: []string{"./sidecar/...", "./controlplane/..."}, Tests: true,
				Reason: "supervision and balancing stand below both control plane and data path",
			},
			{
				From: []string{"..."}, Except: []string{"cmd/...", "tools/..."}, Import: []string{"./cmd/..."}, Tests: true,
				Reason: "a command is a composition root; nothing builds upon it",
			},
			{
				From: []string{"..."}, Except: []string{"test/...", "internal/testkit/...", "bench/..."}, Import: []string{"./test/...", "./bench/..."}, Tests: true,
				Reason: "tests and benchmarks stand above the product",
			},
			{
				From: []string{"..."}, Except: []string{"discovery/consul/...", "controlplane/store/consul/...", "test/..."}, Import: []string{"github.com/hashicorp/consul"},
				Reason: "each backing system's client has one importer, so that it can be replaced or left out",
			},
			{
				From: []string{"..."}, Except: []string{"controlplane/store/embedded/...", "controlplane/host/..."}, Import: []string{"go.etcd.io/bbolt"},
				Reason: "the file format of a store is known to that store alone",
			},
			{
				From: []string{"..."}, Except: []string{"controlplane/intercept/..."}, Import: []string{"github.com/google/nftables"},
				Reason: "tables of nftables are changed in one place, which touches none but its own",
			},
			{
				From: []string{"..."}, Except: []string{"cmd/outrigger/...", "tools/..."}, Import: []string{"github.com/spf13"},
				Reason: "flags are read by the command line only",
			},
			{
				From: []string{"..."}, Except: []string{"controlplane/ads/...", "test/..."}, Import: []string{control + "/pkg/cache", control + "/pkg/server"},
				Reason: "go-control-plane's server is a detail of controlplane/ads",
			},
			{
				From:   []string{"api/resource/...", "controlplane/model/...", "controlplane/resolve/...", "supervisor/...", "controlplane/store/...", "controlplane/admin/..."},
				Import: []string{envoy, control, "google.golang.org/protobuf"},
				Reason: "protobuf begins where the model is told to clients",
			},
		},
	}
}

var (
	runnerMay = []string{"supervisor/process", "supervisor/logfile", "internal/..."}
	hotBelow  = []string{"sidecar/snapshot", "sidecar/exchange", "sidecar/loop", "balancer/...", "internal/..."}
	allHot    = []string{
		"sidecar/snapshot", "sidecar/exchange", "sidecar/loop", "sidecar/filter/...", "sidecar/upstream/...",
		"sidecar/limit/...", "balancer/...", "internal/...",
	}
)
