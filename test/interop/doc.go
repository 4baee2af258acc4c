// Package interop lets clients and servers that others wrote speak through sidecars: gRPC's own interop cases, h2spec, and
// clients of several languages. The sidecars are processes of the built binary, one with the race detector too, each
// with a bootstrap of its own and no control plane.
package interop
