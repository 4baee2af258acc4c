package snapshot

import "github.com/outrigger-mesh/outrigger/sidecar/exchange"

// Verdict is what a filter decides.
type Verdict uint8

// Verdicts.
const (
	// Continue goes on to the next filter.
	Continue Verdict = iota
	// Respond ends the request stage with the answer that x.Respond prepared. At the response stage it
	// replaces the upstream's answer, which is given up.
	Respond
	// Suspend parks this exchange alone (HTTP/1.1 the connection, HTTP/2 the stream) until x.Resume; then the
	// same filter is called again, at the same stage.
	Suspend
)

// Filter is one compiled policy. A filter's configuration is immutable; it is called on many event loops at
// once, and never blocks. What it must remember of one exchange goes into x.Slot().
//
// Request is called in the order of the chain when the request's head is there, Response in the reverse order
// when the response's head is there, for all filters whose Request was called, answers of our own included. End
// is called exactly once for each filter whose Request was called, in any case, cancellation too.
type Filter interface {
	Request(x *exchange.Exchange) Verdict
	Response(x *exchange.Exchange) Verdict
	End(x *exchange.Exchange)
}

// Pass is a Filter that does nothing, to be embedded by those that need one stage only.
type Pass struct{}

// Request continues.
func (Pass) Request(*exchange.Exchange) Verdict { return Continue }

// Response continues.
func (Pass) Response(*exchange.Exchange) Verdict { return Continue }

// End does nothing.
func (Pass) End(*exchange.Exchange) {}
