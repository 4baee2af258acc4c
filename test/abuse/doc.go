// Package abuse sends what attackers send: request smuggling, floods, resource exhaustion. It holds tests alone.
//
// Each file of testdata is one case, with the section of an RFC or the CVE that it is about: the bytes or frames that
// are sent to a real sidecar over a real socket, what the sender must get, what the upstream may see, the counter
// that tells the operator of it, and how much memory the sidecar may take meanwhile. case_test.go says how a file is
// written, script_test.go the language of HTTP/2 frames. After each case an ordinary call must succeed, on the same upstream
// connections: whatever an attacker leaves behind there would be its answer.
package abuse
