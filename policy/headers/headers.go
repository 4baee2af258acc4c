// Package headers is the policy that changes header fields: what users write, and how it is told in xDS. It goes with
// the route, so that the caller's sidecar applies it.
package headers

// Spec changes the fields of requests on their way to the service, and of its responses.
type Spec struct {
	// Request is done to requests.
	Request *Operations `yaml:"request"`
	// Response is done to responses.
	Response *Operations `yaml:"response"`
}

// Operations are done in this order: remove, set, add. Names are compared without regard to case.
type Operations struct {
	// Set gives fields a value, whatever they had before.
	Set map[string]string `yaml:"set" example:"{x-team: shop}"`
	// Add adds a value to fields, beside those that they have.
	Add map[string]string `yaml:"add" example:"{x-seen-by: mesh}"`
	// Remove takes fields away.
	Remove []string `yaml:"remove" example:"[x-debug]"`
}
