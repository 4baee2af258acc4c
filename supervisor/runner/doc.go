// Package runner owns one instance: its process, its sidecar, their output files and exit status, and the sidecar's
// listening sockets. A runner is an operating system process of its own (cmd/outrigger-runner), so small that every instance can
// have one; it outlives the control plane, which finds it again by its directory.
//
// [Spec] is what a runner is told, [State] and [Event] what it tells; [Client] is how the control plane speaks to it;
// Launch, Find and Sweep start runners, find them, and clean up behind one that was killed. Run is the runner itself. All that
// but the types and the client is for Linux only.
//
// The runner restarts its process by the service's own policy, and its sidecar always, with the same sockets. What the exhaustion of
// restarts means, and who else is to be restarted, is decided in supervisor. Isolation lives in supervisor/isolation.
//
// A runner that is killed takes nothing with it (no parent-death signal): sidecar and process serve on, the sidecar without a
// successor, until Sweep, or a new runner in the same directory, ends them. They are found by what runner.json records.
//
// Standard library and internal packages only: what is linked here is paid for by every instance.
package runner
