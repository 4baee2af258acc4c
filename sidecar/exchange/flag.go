package exchange

// Flag is a set of reasons that explain an answer: Envoy's response flags, by Envoy's short names.
type Flag uint32

// The flags. One place, proxy/pipeline, maps what goes wrong to a status, flags and a sentence.
const (
	NoHealthyUpstream         Flag = 1 << iota // UH: no endpoint is eligible
	UpstreamConnectionFailure                  // UF: no connection; the request was not executed
	UpstreamOverflow                           // UO: a limit or an open circuit breaker refused it
	NoRouteFound                               // NR
	UpstreamRetryLimit                         // URX: the last allowed try failed too
	UpstreamConnectionEnd                      // UC: the connection ended before the answer did
	UpstreamRequestTimeout                     // UT
	DownstreamConnectionEnd                    // DC: the caller left
	UpstreamReset                              // UR: the upstream reset the stream
	LocalReset                                 // LR
	RateLimited                                // RL
	UnauthorizedExternal                       // UAEX
	FaultInjected                              // FI: an abort was injected
	DelayInjected                              // DI
	NoClusterFound                             // NC
	DownstreamProtocolError                    // DPE
	UpstreamProtocolError                      // UPE
	StreamIdleTimeout                          // SI
	OverloadManager                            // OM: shed
	DurationTimeout                            // DT: max stream duration
	UpstreamRefused                            // URF (ours): the upstream said that it did not begin
	Draining                                   // DRN (ours): refused because this sidecar is a lame duck
)

var flagNames = [...]string{
	"UH", "UF", "UO", "NR", "URX", "UC", "UT", "DC", "UR", "LR", "RL", "UAEX", "FI",
	"DI", "NC", "DPE", "UPE", "SI", "OM", "DT", "URF", "DRN",
}

// String returns the short names joined by commas, or "-" for none. It allocates only where there are two or more.
func (f Flag) String() string {
	s := ""
	for i, n := range flagNames {
		if f&(1<<i) == 0 {
			continue
		}
		if s == "" {
			s = n
		} else {
			s += "," + n
		}
	}
	if s == "" {
		return "-"
	}
	return s
}

// ParseFlags reads what String writes; unknown names are passed over.
func ParseFlags(s string) (f Flag) {
	for len(s) > 0 {
		n := 0
		for n < len(s) && s[n] != ',' {
			n++
		}
		for i, name := range flagNames {
			if s[:n] == name {
				f |= 1 << i
			}
		}
		if n < len(s) {
			n++
		}
		s = s[n:]
	}
	return f
}

// NotExecuted says whether the flags of a sidecar's own answer mean that no service began the request, so
// that it may be tried again whatever its method.
func (f Flag) NotExecuted() bool {
	const never = NoHealthyUpstream | UpstreamConnectionFailure | UpstreamOverflow | UpstreamRefused |
		NoRouteFound | NoClusterFound | OverloadManager | Draining
	const maybe = UpstreamConnectionEnd | UpstreamReset | UpstreamRequestTimeout | LocalReset | UpstreamProtocolError
	return f&never != 0 && f&maybe == 0
}
