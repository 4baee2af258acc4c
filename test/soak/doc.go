// Package soak keeps one built sidecar under everything at once for as long as it is told, and sees that nothing of it stays:
// HTTP/1.1, HTTP/2, gRPC, WebSocket, TCP and TLS, callers that reset, half-close, read slowly and speak nonsense,
// upstreams that are killed, and a control plane that pushes routes, clusters, endpoints, listeners and certificates all the while.
//
//	make soak              # ten minutes
//	SOAK=1h make soak
//	go test ./test/soak    # twenty seconds, as part of the tests
//	SOAK_PROFILES=DIR …    # keeps a heap profile of each round's end
//
// An operation is never tried again. What fails while an upstream is down, as it may then, is counted as expected; any other failure
// fails the test. Between rounds everything is let go of, and goroutines, descriptors and memory are compared with what
// they were after the second, the first having filled pools and tables.
package soak
