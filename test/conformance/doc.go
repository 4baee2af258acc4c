// Package conformance holds tests of the sidecar's contracts: configuration goes in as Envoy v3 resources, calls go through
// real sockets, and what filters, callers and upstreams saw is compared with what DESIGN promises.
package conformance
