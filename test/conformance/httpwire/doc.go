// Package httpwire holds the conformance tests of what HTTP looks like on the wire, on both sides of a sidecar that was
// given its configuration as Envoy v3 resources: heads, framings, upgrades, and the bridges between HTTP/1.1 and HTTP/2.
package httpwire
