// Package headers is the compiled header operations of a route: fields are removed, set and added on requests and
// responses.
//
// Values are static or templates in Envoy's notation, of which these are served:
//
//	%DOWNSTREAM_REMOTE_ADDRESS%               the caller's address and port
//	%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%  the caller's address, as far as it can be trusted
//	%REQ(NAME)%                               a request's field, or :method, :path, :authority, :scheme
//	%PROTOCOL%                                HTTP/1.0, HTTP/1.1, HTTP/2
//	%ROUTE_NAME%                              the matched route's name
//	%RESPONSE_FLAGS%, %RESPONSE_CODE%         on responses only
//	%%                                        a percent sign
//
// A value that is absent is written as "-"; where a template consists of one absent %REQ()% alone the field is not
// added.
package headers

import (
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// Action is how an operation treats a field that is already there.
type Action uint8

// Actions.
const (
	Append           Action = iota // beside it
	AddIfAbsent                    // not at all
	Overwrite                      // in its place
	OverwriteIfExist               // in its place; nothing where there is none
	Remove
)

// Op is one operation.
type Op struct {
	Action Action
	// Name is in lower case.
	Name  string
	Value Value
	// KeepEmpty adds the field also where the value is empty.
	KeepEmpty bool
}

// Filter does operations in their order.
type Filter struct{ request, response []Op }

// New makes the filter.
func New(request, response []Op) *Filter { return &Filter{request: request, response: response} }

// Request changes the request's fields.
func (f *Filter) Request(x *exchange.Exchange) snapshot.Verdict {
	for i := range f.request {
		f.request[i].apply(x, &x.Req.Header)
	}
	return snapshot.Continue
}

// Response changes the response's fields.
func (f *Filter) Response(x *exchange.Exchange) snapshot.Verdict {
	for i := range f.response {
		f.response[i].apply(x, &x.Resp.Header)
	}
	return snapshot.Continue
}

// End does nothing.
func (f *Filter) End(*exchange.Exchange) {}

func (o *Op) apply(x *exchange.Exchange, h *exchange.Header) {
	switch o.Action {
	case Remove:
		h.Del(o.Name)
		return
	case AddIfAbsent:
		if h.Find(o.Name) >= 0 {
			return
		}
	case OverwriteIfExist:
		if h.Find(o.Name) < 0 {
			return
		}
	}
	v, ok := o.Value.render(x)
	if !ok || v == "" && !o.KeepEmpty {
		return
	}
	if o.Action == Overwrite || o.Action == OverwriteIfExist {
		h.Set(o.Name, v)
	} else {
		h.Add(o.Name, v)
	}
}

// Value is a compiled template.
type Value struct {
	parts  []part
	static string
}

type part struct {
	kind partKind
	text string // literal, or the field's name
}

type partKind uint8

const (
	literal partKind = iota
	remoteAddress
	remoteAddressWithoutPort
	requestField
	protocol
	routeName
	responseFlags
	responseCode
)

// FormatError says why a template cannot be used.
type FormatError struct{ Template, Reason string }

func (e *FormatError) Error() string { return "value " + strconv.Quote(e.Template) + ": " + e.Reason }

// Parse compiles a template; response says that it is for a response.
func Parse(s string, response bool) (Value, error) {
	var v Value
	bad := func(why string) (Value, error) { return Value{}, &FormatError{s, why} }
	var lit strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			v.parts = append(v.parts, part{literal, lit.String()})
			lit.Reset()
		}
	}
	for rest := s; rest != ""; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			lit.WriteString(rest)
			break
		}
		lit.WriteString(rest[:i])
		rest = rest[i+1:]
		if strings.HasPrefix(rest, "%") {
			lit.WriteByte('%')
			rest = rest[1:]
			continue
		}
		end := strings.IndexByte(rest, '%')
		if end < 0 {
			return bad("a % has no partner; a percent sign is written %%")
		}
		p, why := operator(rest[:end], response)
		if why != "" {
			return bad(why)
		}
		flush()
		v.parts = append(v.parts, p)
		rest = rest[end+1:]
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return bad("control characters cannot be in a field's value")
		}
	}
	if len(v.parts) == 0 {
		v.static = lit.String()
		return v, nil
	}
	flush()
	return v, nil
}

func operator(op string, response bool) (part, string) {
	switch op {
	case "DOWNSTREAM_REMOTE_ADDRESS":
		return part{kind: remoteAddress}, ""
	case "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":
		return part{kind: remoteAddressWithoutPort}, ""
	case "PROTOCOL":
		return part{kind: protocol}, ""
	case "ROUTE_NAME":
		return part{kind: routeName}, ""
	case "RESPONSE_FLAGS", "RESPONSE_CODE":
		if !response {
			return part{}, "%" + op + "% is known on responses only"
		}
		if op == "RESPONSE_FLAGS" {
			return part{kind: responseFlags}, ""
		}
		return part{kind: responseCode}, ""
	}
	if name, ok := strings.CutPrefix(op, "REQ("); ok && strings.HasSuffix(name, ")") {
		name = strings.ToLower(name[:len(name)-1])
		if name == "" || strings.ContainsAny(name, "?() ") {
			return part{}, "%REQ()% takes one field's name"
		}
		return part{kind: requestField, text: name}, ""
	}
	return part{}, "%" + op + "% is not served"
}

func (v *Value) render(x *exchange.Exchange) (string, bool) {
	if len(v.parts) == 0 {
		return v.static, true
	}
	if len(v.parts) == 1 {
		switch p := &v.parts[0]; p.kind {
		case requestField: // a view, nothing to copy
			return field(x, p.text)
		case protocol, routeName:
			return p.constant(x), true
		}
	}
	b := x.Alloc(v.size(x))[:0]
	for i := range v.parts {
		b = v.parts[i].append(b, x)
	}
	return unsafe.String(unsafe.SliceData(b), len(b)), true
}

// size is an upper bound of the rendered length.
func (v *Value) size(x *exchange.Exchange) int {
	n := 0
	for i := range v.parts {
		switch p := &v.parts[i]; p.kind {
		case literal:
			n += len(p.text)
		case requestField:
			s, _ := field(x, p.text)
			n += len(s) + 1
		case responseFlags:
			n += 22 * 5 // every flag with its comma
		default:
			n += len(p.constant(x)) + 64 // an address with port and zone fits
		}
	}
	return n
}

func (p *part) constant(x *exchange.Exchange) string {
	switch p.kind {
	case protocol:
		switch x.Proto {
		case exchange.HTTP10:
			return "HTTP/1.0"
		case exchange.HTTP2:
			return "HTTP/2"
		}
		return "HTTP/1.1"
	case routeName:
		if r, ok := x.Route.(*snapshot.Route); ok && r.Name != "" {
			return r.Name
		}
		return "-"
	}
	return ""
}

func (p *part) append(b []byte, x *exchange.Exchange) []byte {
	switch p.kind {
	case literal:
		return append(b, p.text...)
	case requestField:
		if s, ok := field(x, p.text); ok {
			return append(b, s...)
		}
		return append(b, '-')
	case remoteAddress:
		if a := netip.AddrPortFrom(client(x), x.Peer.Port()); a.Addr().IsValid() {
			return a.AppendTo(b)
		}
		return append(b, '-')
	case remoteAddressWithoutPort:
		if a := client(x); a.IsValid() {
			return a.AppendTo(b)
		}
		return append(b, '-')
	case responseFlags:
		return append(b, x.Flags.String()...)
	case responseCode:
		return strconv.AppendInt(b, int64(x.Resp.Status), 10)
	}
	return append(b, p.constant(x)...)
}

func client(x *exchange.Exchange) netip.Addr {
	a := x.Client
	if !a.IsValid() {
		a = x.Peer.Addr()
	}
	return a.Unmap().WithZone("")
}

func field(x *exchange.Exchange, name string) (string, bool) {
	switch name {
	case ":method":
		return x.Req.Method, true
	case ":path":
		return x.Req.Path, true
	case ":authority", "host":
		return x.Req.Authority, true
	case ":scheme":
		return x.Req.Scheme, true
	}
	return x.Req.Header.Get(name)
}
