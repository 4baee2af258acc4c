// Outrigger-runner owns one instance: its process, its sidecar, their output and their listening sockets. The control plane
// starts it; it is told all by the instance's spec.json and its control socket. Flags and wiring only: what it does is in
// supervisor/runner.
package main
