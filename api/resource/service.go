package resource

import "time"

// Service is one version of a service: where it listens, how its processes are run, and what it calls.
type Service struct {
	_ struct{} `later:"authorization, extensions, scaling, rollout, schedule"`
	// Version is a semantic version; versions of one service are served side by side.
	Version string `yaml:"version" required:"true" format:"version" example:"1.0.0"`
	// Ports are where each process listens on loopback, the first one the main one.
	Ports []Port `yaml:"ports" required:"true" maxItems:"64"`
	// Run says how a process is run.
	Run *Run `yaml:"run" required:"true"`
	// Pool says how many processes there are on a host.
	Pool *Pool `yaml:"pool"`
	// Placement says on which hosts.
	Placement *Placement `yaml:"placement"`
	// Health says how a process is found healthy. Without it, it is healthy once its port accepts.
	Health *Health `yaml:"health"`
	// Intercept leads the process's TCP connections through its sidecar without its knowing (Linux, root).
	Intercept *Intercept `yaml:"intercept"`
	// Uses names the services that it calls: it is told just those, with [] none. Without it, it may call any.
	Uses []string `yaml:"uses" keep:"true" default:"any service, found at the first call" format:"label" maxItems:"1024" example:"[inventory, payments]"`
}

// Protocol is what a port speaks.
type Protocol string

// Protocols.
const (
	HTTP      Protocol = "http"      // HTTP/1.1 and HTTP/2
	GRPC      Protocol = "grpc"      // HTTP/2
	WebSocket Protocol = "websocket" // HTTP/1.1 with upgrades
	TCP       Protocol = "tcp"       // bytes
	Auto      Protocol = "auto"      // what each connection begins with: HTTP/1.1, HTTP/2, or else bytes
)

// IsHTTP says whether HTTP policies apply: to all but TCP. Of a port of protocol Auto they apply to the connections that are HTTP.
func (p Protocol) IsHTTP() bool { return p != TCP }

// Port is one port of a service.
type Port struct {
	_ struct{} `later:"tls, socket"`
	// Name is unique within the service; the process is told its number in PORT and its name (PORT_HTTP).
	Name string `yaml:"name" required:"true" format:"label" example:"http"`
	// Protocol is what is spoken there. auto looks at each connection's first bytes: HTTP/1.1 and HTTP/2 are served as http, all
	// else as tcp; where the server speaks first, that costs 50 ms at the beginning of each connection.
	Protocol Protocol `yaml:"protocol" required:"true" enum:"http, grpc, websocket, tcp, auto" example:"http"`
	// Number is where the process listens on loopback; where it is not written, a port is chosen for each instance
	// and kept over restarts.
	Number int `yaml:"number" min:"1" max:"65535" default:"chosen" example:"8080"`
	// Addresses are IP addresses with ports by which intercepted callers reach it: a connection to one of them goes to
	// the service, whether anybody listens there or not.
	Addresses []string `yaml:"addresses" maxItems:"64" example:"['10.96.0.10:80', '[fd00::10]:80']"`
}

// Run says how a process is run.
type Run struct {
	_ struct{} `later:"resources, image, seccomp, capabilities, hooks"`
	// Command is the program and its arguments; no shell is involved. {{ .StateDir }}, {{ .InstanceDir }} and
	// {{ .Instance }} are replaced, as in env and dir.
	Command []string `yaml:"command" required:"true" maxItems:"1024" example:"[python3, orders.py]"`
	// Env is added to the environment.
	Env map[string]string `yaml:"env" example:"{LOG: '{{ .StateDir }}/orders.log'}"`
	// Dir is the working directory, relative to the file that says so.
	Dir string `yaml:"dir" default:"the directory of the file" example:"./orders"`
	// User is the name or number of the user that the process runs as, with that user's groups; the control plane must be root.
	User string `yaml:"user" default:"the control plane's" example:"app"`
	// Isolation is how the process is kept apart from others.
	Isolation string `yaml:"isolation" enum:"process" later:"none, namespace, container, wasm" default:"process" example:"process"`
	// Restart says when the process is started again.
	Restart *Restart `yaml:"restart"`
	// Start says when the process is started.
	Start *Start `yaml:"start"`
	// Stop says how it is stopped.
	Stop *Stop `yaml:"stop"`
}

// Values of Restart.When.
const (
	Permanent = "permanent"
	Transient = "transient"
	Temporary = "temporary"
)

// Restart says when a process is started again after it ended. Where that does not help it is the supervisor's turn.
type Restart struct {
	// When: permanent (always), transient (after a failure only), temporary (never).
	When string `yaml:"when" enum:"permanent, transient, temporary" default:"permanent" example:"transient"`
	// Max is how many restarts are made in the window before the process counts as failed.
	Max *int `yaml:"max" min:"0" max:"1000000" default:"3" example:"3"`
	// Within is the window in which restarts are counted.
	Within time.Duration `yaml:"within" min:"1ms" max:"168h" default:"60s" example:"60s"`
	// Backoff is the wait before a restart.
	Backoff *RestartBackoff `yaml:"backoff"`
}

// RestartBackoff is how the wait before a restart grows with each restart in the window.
type RestartBackoff struct {
	// Kind is how it grows.
	Kind string `yaml:"kind" enum:"linear, exponential, fibonacci" default:"exponential" example:"exponential"`
	// Base is the first wait.
	Base time.Duration `yaml:"base" min:"1ms" max:"24h" default:"100ms" example:"100ms"`
	// Max is the longest wait.
	Max time.Duration `yaml:"max" min:"1ms" max:"24h" default:"30s" example:"30s"`
	// Jitter is the share of the wait by which it varies at random, 0 to 1.
	Jitter *float64 `yaml:"jitter" min:"0" max:"1" default:"0.1" example:"0.2"`
}

// Conditions of Dependency.
const (
	Healthy = "healthy"
	Started = "started"
)

// Start says when a process is started.
type Start struct {
	// After are the services that must be there first: a list of names (short for healthy), or a map from name to
	// condition: healthy or started.
	After After `yaml:"after" example:"{inventory: started}"`
	// Timeout is how long the process may take to become healthy; it waits for others besides.
	Timeout time.Duration `yaml:"timeout" min:"1ms" max:"24h" default:"30s" example:"10s"`
}

// After is what a start waits for, ordered by name.
type After []Dependency

// Dependency is a service, and the state of it that is waited for.
type Dependency struct {
	Service string
	// Condition is Healthy or Started.
	Condition string
}

// Stop says how a process is stopped.
type Stop struct {
	// Signal is sent to the whole process group.
	Signal string `yaml:"signal" enum:"TERM, INT, QUIT, HUP, USR1, USR2, KILL" default:"TERM" example:"INT"`
	// Timeout is how long it may take before it is killed.
	Timeout *time.Duration `yaml:"timeout" min:"0s" max:"24h" default:"10s" example:"10s"`
}

// Pool says how many processes there are on each host.
type Pool struct {
	_ struct{} `later:"min, max, initial, recycle, scale"`
	// Size is how many; 0 keeps the service known but not running.
	Size *int `yaml:"size" required:"true" min:"0" max:"1000" default:"1" example:"2"`
}

// Placement says on which hosts a service runs.
type Placement struct {
	_ struct{} `later:"zones, spread, labels"`
	// Hosts are names of hosts; "*" stands for any text.
	Hosts []string `yaml:"hosts" required:"true" maxItems:"1024" default:"the host where it was applied" example:"['*']"`
}

// Health says how a process is probed. Exactly one of http, grpc and tcp is written.
type Health struct {
	_ struct{} `later:"exec"`
	// HTTP is a path that answers 200 to 399.
	HTTP string `yaml:"http" format:"path" example:"/healthz"`
	// GRPC is the service that grpc.health.v1 is asked for; "" asks for the server.
	GRPC *string `yaml:"grpc" example:"shop.Orders"`
	// TCP: the port accepts.
	TCP bool `yaml:"tcp" example:"true"`
	// Port is the name of the port that is probed.
	Port string `yaml:"port" format:"label" default:"the first that fits" example:"http"`
	// Interval is the time between probes.
	Interval time.Duration `yaml:"interval" min:"10ms" max:"1h" default:"10s" example:"5s"`
	// Timeout is how long a probe may take.
	Timeout time.Duration `yaml:"timeout" min:"1ms" max:"1h" default:"1s" example:"1s"`
	// UnhealthyAfter is how many probes fail in a row before the process counts as unhealthy.
	UnhealthyAfter int `yaml:"unhealthyAfter" min:"1" max:"1000" default:"3" example:"3"`
	// HealthyAfter is how many succeed in a row before it counts as healthy.
	HealthyAfter int `yaml:"healthyAfter" min:"1" max:"1000" default:"1" example:"1"`
}

// Defaults of a Service, where nothing is written.
const (
	DefaultPoolSize       = 1
	DefaultIsolation      = "process"
	DefaultRestartMax     = 3
	DefaultRestartWithin  = 60 * time.Second
	DefaultRestartBackoff = "exponential"
	DefaultRestartBase    = 100 * time.Millisecond
	DefaultRestartLongest = 30 * time.Second
	DefaultRestartJitter  = 0.1
	DefaultStartTimeout   = 30 * time.Second
	DefaultStopSignal     = "TERM"
	DefaultStopTimeout    = 10 * time.Second
	DefaultDrain          = 30 * time.Second
	DefaultHealthInterval = 10 * time.Second
	DefaultHealthTimeout  = time.Second
	DefaultUnhealthyAfter = 3
	DefaultHealthyAfter   = 1
)
