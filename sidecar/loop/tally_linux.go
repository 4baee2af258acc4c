package loop

import "sync/atomic"

// Tally counts open connections, and its parent's with them. The zero value is ready; it is safe for concurrent use.
type Tally struct {
	n      atomic.Int64
	parent *Tally
}

// Of has t counted in parent too. It is called before t is used.
func (t *Tally) Of(parent *Tally) { t.parent = parent }

// Add changes the count by d and returns the new one.
func (t *Tally) Add(d int64) int64 {
	if t.parent != nil {
		t.parent.Add(d)
	}
	return t.n.Add(d)
}

// Value is the count.
func (t *Tally) Value() int64 { return t.n.Load() }

// Counted has the connection, which is counted in t already, taken off when it closes.
func (c *Conn) Counted(t *Tally) { c.tally = t }
