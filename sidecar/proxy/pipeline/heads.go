package pipeline

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/loop"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// ContinueMode says who tells a caller that sent Expect: 100-continue to go on.
type ContinueMode uint8

// Who says Continue.
const (
	ContinueDone     ContinueMode = iota // nobody (any more)
	ContinueUpstream                     // the callee: its 100 is passed on
)

// Reject is called by a downstream codec instead of Begin for a request that it could read and does not take.
func (s *Stream) Reject(end bool, status int, detail string) {
	s.Start = s.w.Loop.Now()
	s.reqEnd, s.bufferMax = end, -1
	s.l.Active.Add(1)
	s.fail(status, exchange.DownstreamProtocolError, detail)
}

// ExpectContinue is called by a downstream codec before Begin where the caller waits for a 100. It returns whether the
// codec is to say so itself.
func (s *Stream) ExpectContinue() bool {
	if o := s.http.Options; o != nil && o.Continue {
		s.Continue = ContinueUpstream
		return false
	}
	s.Req.Header.DelKnown(exchange.Expect)
	return true
}

// sendInformational passes s.Resp, a 1xx, on.
func (s *Stream) sendInformational() {
	if s.Resp.Status == 100 {
		s.Continue = ContinueDone
	}
	s.down.SendInformational(s)
}

// askForBody says Continue to a caller whose body a filter wants before the callee could say so.
func (s *Stream) askForBody() {
	if s.Continue == ContinueUpstream {
		s.Req.Header.DelKnown(exchange.Expect)
		s.Resp.Reset()
		s.Resp.Status = 100
		s.sendInformational()
		s.Resp.Reset()
	}
}

// ClientFromPeer sets the client's address: the peer, or what trusted hops say.
func (s *Stream) ClientFromPeer() {
	s.Client = s.Peer.Addr()
	if s.http.ClientCert.Mode != snapshot.ClientCertAlways {
		s.clientCert()
	}
	if s.http.UseRemoteAddress || s.Req.Header.Has(exchange.XForwardedFor) {
		s.forwardedFor()
	}
}

// forwardedFor reads and extends X-Forwarded-For (Envoy: use_remote_address, xff_num_trusted_hops, skip_xff_append).
// Who takes calls from outside believes what the field says from the right, as many hops as are trusted; who does not
// believes the last entry, which the sidecar before it has written.
func (s *Stream) forwardedFor() {
	h := &s.Req.Header
	remote := s.http.UseRemoteAddress
	hops := s.http.TrustedHops
	old, has := h.GetKnown(exchange.XForwardedFor)
	if has && (hops > 0 || !remote) {
		n := hops
		if remote { // the peer is the last hop, and one of the trusted ones
			n--
		}
		if a, ok := hop(old, n); ok {
			s.Client = a
		}
	}
	if !remote || !s.Peer.IsValid() {
		return
	}
	o := s.http.Options
	if o == nil || !o.SkipForwardedFor {
		b := s.Alloc(len(old) + 2 + 48)[:0]
		if has {
			b = append(append(b, old...), ", "...)
		}
		b = s.Peer.Addr().AppendTo(b)
		h.SetKnown(exchange.XForwardedFor, viewString(b))
	}
	if hops == 0 || !h.Has(exchange.XForwardedProto) { // nobody before us is trusted to say it
		h.SetKnown(exchange.XForwardedProto, s.scheme())
	}
}

// hop is the address n entries from the right of an X-Forwarded-For.
func hop(v string, n int) (netip.Addr, bool) {
	for ; n > 0; n-- {
		i := strings.LastIndexByte(v, ',')
		if i < 0 {
			return netip.Addr{}, false
		}
		v = v[:i]
	}
	a, err := netip.ParseAddr(strings.TrimSpace(v[strings.LastIndexByte(v, ',')+1:]))
	return a, err == nil
}

func (s *Stream) scheme() string {
	if s.Secure {
		return "https"
	}
	return "http"
}

// prepare does to a request's head what the listener's options say; false: it has been answered.
func (s *Stream) prepare(o *snapshot.HTTPOptions) bool {
	h := &s.Req.Header
	if o.Underscores != snapshot.UnderscoresAllow && !s.underscores(o.Underscores) {
		return false
	}
	if s.Req.Authority == "" && s.Proto == exchange.HTTP10 && o.DefaultHost != "" {
		s.setAuthority(o.DefaultHost)
	}
	host := s.Req.Authority // as the caller wrote it
	if a := s.hostOf(o); a != host {
		s.setAuthority(a)
	}
	if o.EscapedSlashes != snapshot.SlashesKeep && !s.escapedSlashes(o.EscapedSlashes) {
		return false
	}
	if o.Via != "" {
		s.append(h, exchange.Via, o.Via)
	}
	if o.ForwardedPort && (s.http.TrustedHops == 0 || !h.Has(exchange.XForwardedPort)) {
		if d, ok := s.down.(interface{ Local() netip.AddrPort }); ok && d.Local().IsValid() {
			h.SetKnown(exchange.XForwardedPort, viewString(strconv.AppendUint(s.Alloc(5)[:0], uint64(d.Local().Port()), 10)))
		}
	}
	if o.Forwarded {
		s.forwarded(host)
	}
	if o.RequestTimeout > 0 && !s.reqEnd && s.Req.Protocol == "" && s.Req.Method != "CONNECT" {
		if s.upload == nil {
			s.upload = new(loop.Timer)
		}
		s.w.Loop.SetTimer(s.upload, o.RequestTimeout, s)
	}
	return true
}

func (s *Stream) setAuthority(a string) {
	s.Req.Authority = a
	if s.Proto != exchange.HTTP2 || s.Req.Header.Has(exchange.Host) {
		s.Req.Header.SetKnown(exchange.Host, a)
	}
}

// append adds v to a field that is a list.
func (s *Stream) append(h *exchange.Header, k exchange.Known, v string) {
	if old, ok := h.GetKnown(k); ok && old != "" {
		// several lines of a list are one (RFC 9110 §5.3): the last one is extended, so that the order stays
		last := h.FindKnown(k)
		for i := last + 1; i < len(h.Fields); i++ {
			if f := &h.Fields[i]; f.Known == k && f.Flags&exchange.Dropped == 0 {
				last = i
			}
		}
		f := &h.Fields[last]
		f.Value, f.Entry, f.Start, f.End = s.Concat(f.Value, ", ", v), nil, 0, 0
		return
	}
	h.SetKnown(k, v)
}

// forwarded appends this hop's element to Forwarded (RFC 7239 §4). host is the authority before it was changed.
func (s *Stream) forwarded(host string) {
	b := s.Alloc(64 + len(host))[:0]
	if a := s.Peer.Addr(); a.IsValid() {
		if a = a.Unmap(); a.Is6() {
			b = append(a.WithZone("").AppendTo(append(b, `for="[`...)), `]"`...)
		} else {
			b = a.AppendTo(append(b, "for="...))
		}
	} else {
		b = append(b, "for=unknown"...) // a Unix socket (§6.2)
	}
	if host != "" {
		b = append(append(append(b, `;host="`...), host...), '"') // a codec has refused what cannot be quoted
	}
	b = append(append(b, ";proto="...), s.scheme()...)
	s.append(&s.Req.Header, exchange.Forwarded, viewString(b))
}

// underscores obeys headers_with_underscores_action.
func (s *Stream) underscores(mode snapshot.UnderscoreMode) bool {
	fs := s.Req.Header.Fields
	for i := range fs {
		f := &fs[i]
		if f.Known != exchange.Other || f.Flags&exchange.Dropped != 0 || strings.IndexByte(f.Name, '_') < 0 {
			continue // none of the known ones has any
		}
		if mode == snapshot.UnderscoresReject {
			s.fail(400, exchange.DownstreamProtocolError, "a field's name holds an underscore")
			return false
		}
		f.Flags |= exchange.Dropped
	}
	return true
}

// hostOf is the authority without what the options strip. A CONNECT's port says where to, and stays.
func (s *Stream) hostOf(o *snapshot.HTTPOptions) string {
	a := s.Req.Authority
	if s.Req.Method == "CONNECT" {
		return a
	}
	bare := snapshot.StripPort(a)
	port := a[len(bare):]
	if o.StripTrailingDot && len(bare) > 1 && bare[len(bare)-1] == '.' {
		bare = bare[:len(bare)-1]
		a = s.Concat(bare, port)
	}
	switch {
	case port == "":
	case o.StripPort == snapshot.StripAnyPort:
		return bare
	case o.StripPort == snapshot.StripMatchingPort:
		if n, err := strconv.Atoi(port[1:]); err == nil && n == o.ListenPort {
			return bare
		}
	}
	return a
}

// escapedSlashes obeys path_with_escaped_slashes_action; false: it has been answered.
func (s *Stream) escapedSlashes(mode snapshot.EscapedSlashesMode) bool {
	path := s.Req.PathOnly()
	if !hasEscapedSlash(path) {
		return true
	}
	if mode == snapshot.SlashesReject || mode == snapshot.SlashesRedirect && s.GRPC {
		s.fail(400, exchange.DownstreamProtocolError, "an escaped slash in the path")
		return false
	}
	b := s.Alloc(len(s.Req.Path))[:0]
	for i := 0; i < len(path); i++ {
		if isEscapedSlash(path[i:]) {
			c := byte('/')
			if path[i+1] == '5' {
				c = '\\'
			}
			b = append(b, c)
			i += 2
			continue
		}
		b = append(b, path[i])
	}
	b = append(b, s.Req.Path[len(path):]...)
	if mode == snapshot.SlashesForward {
		s.Req.Path = viewString(b)
		return true
	}
	s.Exchange.Respond(307, 0, "")
	s.Resp.Header.AddKnown(exchange.Location, viewString(b))
	s.answer()
	return false
}

func hasEscapedSlash(p string) bool {
	for {
		i := strings.IndexByte(p, '%')
		if i < 0 {
			return false
		}
		p = p[i:]
		if isEscapedSlash(p) {
			return true
		}
		p = p[1:]
	}
}

func isEscapedSlash(p string) bool {
	return len(p) >= 3 && p[0] == '%' && (p[1] == '2' && p[2]|0x20 == 'f' || p[1] == '5' && p[2]|0x20 == 'c')
}

// finishHead does to a response's head what the listener's options say.
func (s *Stream) finishHead(o *snapshot.HTTPOptions) {
	h := &s.Resp.Header
	if o.Via != "" {
		s.append(h, exchange.Via, o.Via)
	}
	if o.ServerName != "" {
		switch o.Server {
		case snapshot.ServerOverwrite:
			h.SetKnown(exchange.Server, o.ServerName)
		case snapshot.ServerIfAbsent:
			if !h.Has(exchange.Server) {
				h.AddKnown(exchange.Server, o.ServerName)
			}
		}
	}
	if o.RequestIDInResponse && s.ID != "" {
		h.SetKnown(exchange.XRequestID, s.ID)
	}
}

// requestEnded is the end of the request.
func (s *Stream) requestEnded() {
	s.reqEnd = true
	s.stopUpload()
}

func (s *Stream) stopUpload() {
	if s.upload != nil {
		s.w.Loop.StopTimer(s.upload)
	}
}

// uploadLate is a request that was not whole in time (Envoy: request_timeout).
func (s *Stream) uploadLate() {
	s.fail(408, exchange.DurationTimeout, "the request was not whole in time")
}
