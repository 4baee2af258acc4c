// Package admin is how users speak with a control plane: REST over the Unix socket STATE/api.sock, the types
// that travel there, and a client of it, which the command line uses.
//
// [Server] turns HTTP into calls of a [Backend] and the Backend's errors into problem documents (RFC 9457)
// that carry all violations of an input at once. What an operation means is the Backend's business: package
// controlplane implements it. Nothing here stores, resolves or starts anything.
//
// Errors lose their type at the wire: a [*Problem] arrives as a [*Problem], everything else as one with status
// 500 and the error's text.
package admin

import (
	"encoding/json"
	"time"
)

// Document is one file that a user applies: any number of resources, YAML or JSON.
type Document struct {
	// File is the name to show in messages; "-" for standard input.
	File string `json:"file"`
	// Text is the file's content.
	Text string `json:"text"`
}

// ApplyRequest asks for a set of documents to be put in force.
type ApplyRequest struct {
	// Source says where the documents come from; resources remember it for Prune. At most 256 bytes. Default "apply".
	Source string `json:"source,omitempty"`
	// Dir is the absolute directory that files are relative to; it stands in for a file's own where there is none.
	Dir string `json:"dir,omitempty"`
	// Documents are the files, in order. At least one unless Prune is set.
	Documents []Document `json:"documents"`
	// Prune also removes the resources that the same source applied before and that are no longer there.
	Prune bool `json:"prune,omitempty"`
	// DryRun checks everything and changes nothing.
	DryRun bool `json:"dryRun,omitempty"`
	// ExpectedRevision refuses the apply (409) where another revision is in force.
	ExpectedRevision *uint64 `json:"expectedRevision,omitempty"`
}

// Actions of a Change.
const (
	ActionCreate = "create"
	ActionUpdate = "update"
	ActionDelete = "delete"
	ActionKeep   = "unchanged"
)

// Change is what an apply does to one resource.
type Change struct {
	Action  string `json:"action"`
	Tenant  string `json:"tenant"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// Fields are the fields that differ; none for a resource that is created or deleted.
	Fields []FieldChange `json:"fields,omitempty"`
}

// FieldChange is one field that differs. Old and New are compact JSON, "" for none.
type FieldChange struct {
	Path string `json:"path"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// ApplyResult is what an apply did, or, for a dry run, would do.
type ApplyResult struct {
	// Revision is the one in force afterwards.
	Revision uint64 `json:"revision"`
	// Changed is false where the documents say what is in force already; no new revision is made then.
	Changed  bool        `json:"changed"`
	DryRun   bool        `json:"dryRun,omitempty"`
	Changes  []Change    `json:"changes"`
	Warnings []Violation `json:"warnings,omitempty"`
}

// Resource is one resource and what became of it.
type Resource struct {
	Tenant  string `json:"tenant"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// Source applied it; Origin is where it is written, as file:line.
	Source string `json:"source,omitempty"`
	Origin string `json:"origin,omitempty"`
	// Manifest is the resource as it is stored, in JSON.
	Manifest json.RawMessage `json:"manifest"`
	Status   ResourceStatus  `json:"status"`
}

// ResourceStatus says whether a resource is in force, and where it is not.
type ResourceStatus struct {
	// State is "in force", "pending" (not every client has acknowledged yet), "rejected" or "invalid".
	State string `json:"state"`
	// Problems say why a stored resource cannot be used at all.
	Problems []string `json:"problems,omitempty"`
	// Rejections are the clients that refused what came of the resource. They keep the last good one.
	Rejections []Rejection `json:"rejections,omitempty"`
	// NotCarried names the policies that a foreign client does not carry.
	NotCarried []NotCarried `json:"notCarried,omitempty"`
	// Notes are facts worth knowing, for example that an in-memory limit is divided by the instances.
	Notes []string `json:"notes,omitempty"`
}

// Rejection is one client's NACK.
type Rejection struct {
	// Node is the client's id: an instance's, or a foreign client's.
	Node string `json:"node"`
	// Type and Name of the xDS resource.
	Type string `json:"type,omitempty"`
	Name string `json:"name,omitempty"`
	// Reason is what the client answered.
	Reason string `json:"reason"`
}

// NotCarried lists what one foreign client leaves out.
type NotCarried struct {
	Node     string   `json:"node"`
	Policies []string `json:"policies"`
}

// PID is a process that accompanies an instance.
type PID struct {
	PID int `json:"pid"`
}

// Process is one instance, or a gateway, on this host.
type Process struct {
	Service  string `json:"service"`
	Version  string `json:"version"`
	Tenant   string `json:"tenant"`
	Instance string `json:"instance"`
	// PID is 0 while no process runs.
	PID int `json:"pid"`
	// State is one of created, starting, running, stopping, stopped, failed, restarting.
	State    string `json:"state"`
	Restarts int    `json:"restarts"`
	// Ready: the process is healthy and advertised (a gateway: its listeners accept).
	Ready   bool `json:"ready"`
	Sidecar PID  `json:"sidecar"`
	Runner  PID  `json:"runner"`
	// Address is where the mesh reaches the instance: its inbound sidecar's.
	Address string `json:"address"`
	// Intercept says which of its connections are redirected to its sidecar, in words ("outbound by cgroup, inbound"); "" for none.
	Intercept string `json:"intercept,omitempty"`
	// Reason says why the instance is not running or not ready, "" where it is.
	Reason string `json:"reason,omitempty"`
	// Since is when the process started, zero where none runs.
	Since time.Time `json:"since,omitzero"`
	// LastOutput are the last lines of output of a process that failed.
	LastOutput []string `json:"lastOutput,omitempty"`
}

// Interception is what redirects the connections of one instance to its sidecar.
type Interception struct {
	Instance string `json:"instance"`
	// Table is the name of its table of nftables, in the family inet.
	Table string `json:"table"`
	// Rules is the whole table in the syntax of nft.
	Rules string `json:"rules"`
	// InForce: the table is in the kernel. That of a stopped instance is not.
	InForce bool `json:"inForce"`
}

// Event is something that happened on this host.
type Event struct {
	// Number rises by one with each event of this control plane. It begins anew when the control plane does; Epoch tells.
	Number uint64 `json:"number"`
	// Epoch identifies the run of the control plane that numbered the event.
	Epoch string    `json:"epoch"`
	Time  time.Time `json:"time"`
	// Kind is a dotted word: process.running, process.failed, revision.applied, client.rejected, …
	Kind     string `json:"kind"`
	Tenant   string `json:"tenant,omitempty"`
	Service  string `json:"service,omitempty"`
	Version  string `json:"version,omitempty"`
	Instance string `json:"instance,omitempty"`
	// State is the process's new state where Kind is of processes.
	State string `json:"state,omitempty"`
	PID   int    `json:"pid,omitempty"`
	// Text is a plain sentence for a person.
	Text string `json:"text"`
}

// Status is the host at a glance.
type Status struct {
	// Ready: every placed instance that no one stopped is ready, and every stored resource is usable.
	Ready bool `json:"ready"`
	// Reasons say what is missing for Ready.
	Reasons []string `json:"reasons,omitempty"`
	// Fatal: what is missing will not come by waiting.
	Fatal bool `json:"fatal,omitempty"`
	// Epoch identifies this run of the control plane; its events carry it.
	Epoch string `json:"epoch"`
	// LastEvent is the number of the newest event when this was told.
	LastEvent uint64 `json:"lastEvent"`
	Host      string `json:"host"`
	PID       int    `json:"pid"`
	Version   string `json:"version"`
	Revision  uint64 `json:"revision"`
	// Store is "embedded" or "consul ADDRESS".
	Store string `json:"store"`
	// Edge is the edge's address, "" where there is none.
	Edge      string    `json:"edge,omitempty"`
	API       string    `json:"api"`
	Started   time.Time `json:"started"`
	Processes []Process `json:"processes"`
	// Clients are the xDS clients that are connected.
	Clients []XDSClient `json:"clients,omitempty"`
	// Warnings are problems that do not keep the mesh from being ready.
	Warnings []string `json:"warnings,omitempty"`
}

// XDSClient is a connected xDS client.
type XDSClient struct {
	Node string `json:"node"`
	Kind string `json:"kind"`
	// Skipped is what a client's traffic bypasses or does not carry.
	Skipped []string `json:"skipped,omitempty"`
}

// Revision is one accepted state of all resources.
type Revision struct {
	Number uint64    `json:"number"`
	Time   time.Time `json:"time"`
	Author string    `json:"author,omitempty"`
	Source string    `json:"source,omitempty"`
	// Summary says what changed: "created Service/orders, deleted Route/beta".
	Summary string `json:"summary,omitempty"`
	Current bool   `json:"current,omitempty"`
}

// DefaultEnvoyListen is where a foreign Envoy listens unless told otherwise.
const DefaultEnvoyListen = "127.0.0.1:10000"

// BootstrapRequest asks for a foreign client's bootstrap.
type BootstrapRequest struct {
	// Kind is envoy or grpc.
	Kind string
	// Tenant and Service say in whose name the client calls.
	Tenant, Service string
	// Listen is where an Envoy listens for calls that are routed by Host. Default DefaultEnvoyListen.
	Listen string
}

// UpgradeRequest asks for other sidecars.
type UpgradeRequest struct {
	// Tenant owns what is named; "" is the default one.
	Tenant string `json:"tenant,omitempty"`
	// Names are services, SERVICE@VERSION or ids; none means all instances and the gateways.
	Names []string `json:"names,omitempty"`
	// Sidecar is the absolute path of the sidecar's program on the control plane's host; "" is the one that it was started with.
	Sidecar string `json:"sidecar,omitempty"`
}

// Upgraded is one instance whose sidecar was replaced.
type Upgraded struct {
	Instance string `json:"instance"`
	// Old and New are the sidecars' process ids; 0 where none runs: the instance takes the program when it starts.
	Old int `json:"old,omitempty"`
	New int `json:"new,omitempty"`
}

// UpgradeLine is one line of what /v1/upgrade reports while it works.
type UpgradeLine struct {
	Upgraded *Upgraded `json:"upgraded,omitempty"`
	// Done is set on the last line.
	Done bool `json:"done,omitempty"`
	// Error is set on the last line where a new sidecar did not become ready; the old one stays.
	Error string `json:"error,omitempty"`
}

// DownLine is one line of what /v1/down reports while it works.
type DownLine struct {
	// Text says what was done.
	Text string `json:"text"`
	// Done is set on the last line.
	Done bool `json:"done,omitempty"`
	// Error is set on the last line where something would not end.
	Error string `json:"error,omitempty"`
}
