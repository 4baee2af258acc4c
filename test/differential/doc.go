// Package differential puts the same exchanges through an unmodified Envoy and through outrigger-sidecar, both with the same
// static bootstrap but for its ports, and compares what both ends of each exchange saw: the caller (informational answers, head, body,
// trailers, how it ended) and the upstream (every try of it).
//
// generate_test.go makes the exchanges out of a seed, each a script of what the caller and the upstream do in turn; run_test.go
// plays a script; h1_test.go and h2_test.go are the two ends, which write what they are told to and note what comes. testdata/differences.yaml
// lists where we mean to differ from Envoy, with the reason; a difference that is not in it fails the test, and so does an
// entry that nothing needs any more.
package differential
