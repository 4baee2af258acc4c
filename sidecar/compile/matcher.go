package compile

import (
	"regexp"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// stringMatcher fulfils snapshot.Matcher for the kinds of Envoy's StringMatcher but regular expressions.
type stringMatcher struct {
	kind stringKind
	text string // in lower case where fold is set
	fold bool
}

type stringKind uint8

const (
	exact stringKind = iota
	prefix
	suffix
	contains
)

func (m *stringMatcher) Match(s string) bool {
	switch m.kind {
	case prefix:
		return len(s) >= len(m.text) && m.equal(s[:len(m.text)])
	case suffix:
		return len(s) >= len(m.text) && m.equal(s[len(s)-len(m.text):])
	case contains:
		if !m.fold {
			return strings.Contains(s, m.text)
		}
		for i := 0; i+len(m.text) <= len(s); i++ {
			if m.equal(s[i : i+len(m.text)]) {
				return true
			}
		}
		return false
	}
	return m.equal(s)
}

func (m *stringMatcher) equal(s string) bool {
	if m.fold {
		return exchange.EqualFold(s, m.text)
	}
	return s == m.text
}

// regexMatcher matches the whole string, as Envoy's safe_regex does; RE2 is Go's regexp.
type regexMatcher struct{ re *regexp.Regexp }

func (m regexMatcher) Match(s string) bool { return m.re.MatchString(s) }

// rangeMatcher takes integers from start up to, not including, end.
type rangeMatcher struct{ start, end int64 }

func (m rangeMatcher) Match(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	return err == nil && n >= m.start && n < m.end
}

// maxRegexBytes bounds a regular expression; Go compiles any RE2 expression to a program linear in its length.
const maxRegexBytes = 16 << 10

func regex(r *report, path string, m *matcherv3.RegexMatcher) snapshot.Matcher {
	if len(m.GetRegex()) > maxRegexBytes {
		r.add(join(path, "regex"), "is %d bytes long; %d are allowed", len(m.GetRegex()), maxRegexBytes)
		return nil
	}
	_, err := regexp.Compile(m.GetRegex()) // alone first: its error speaks of what was written
	var re *regexp.Regexp
	if err == nil {
		re, err = regexp.Compile("^(?:" + m.GetRegex() + ")$")
	}
	if err != nil {
		r.add(path, "%v", err)
		return nil
	}
	return regexMatcher{re}
}

func str(kind stringKind, text string, fold bool) snapshot.Matcher {
	if fold {
		text = strings.ToLower(text)
	}
	return &stringMatcher{kind, text, fold}
}

func stringMatch(r *report, path string, m *matcherv3.StringMatcher) snapshot.Matcher {
	fold := m.GetIgnoreCase()
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return str(exact, p.Exact, fold)
	case *matcherv3.StringMatcher_Prefix:
		return str(prefix, p.Prefix, fold)
	case *matcherv3.StringMatcher_Suffix:
		return str(suffix, p.Suffix, fold)
	case *matcherv3.StringMatcher_Contains:
		return str(contains, p.Contains, fold)
	case *matcherv3.StringMatcher_SafeRegex:
		if fold {
			r.add(join(path, "ignore_case"), "has no effect on safe_regex; write (?i)")
			return nil
		}
		return regex(r, join(path, "safe_regex"), p.SafeRegex)
	}
	r.add(path, "says nothing to match")
	return nil
}

func headerMatch(r *report, path string, h *routev3.HeaderMatcher) snapshot.HeaderMatch {
	name := strings.ToLower(h.GetName())
	m := snapshot.HeaderMatch{
		Name: name, Known: exchange.Lookup(name), Invert: h.GetInvertMatch(),
		MissingAsEmpty: h.GetTreatMissingHeaderAsEmpty(),
	}
	if name == "" {
		r.add(join(path, "name"), "is missing")
	}
	switch s := h.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_StringMatch:
		m.Matcher = stringMatch(r, join(path, "string_match"), s.StringMatch)
	case *routev3.HeaderMatcher_ExactMatch:
		m.Matcher = str(exact, s.ExactMatch, false) //nolint:staticcheck // deprecated, and still what many servers emit
	case *routev3.HeaderMatcher_PrefixMatch:
		m.Matcher = str(prefix, s.PrefixMatch, false) //nolint:staticcheck // deprecated, and still what many servers emit
	case *routev3.HeaderMatcher_SuffixMatch:
		m.Matcher = str(suffix, s.SuffixMatch, false) //nolint:staticcheck // deprecated, and still what many servers emit
	case *routev3.HeaderMatcher_ContainsMatch:
		m.Matcher = str(contains, s.ContainsMatch, false) //nolint:staticcheck // deprecated, and still what many servers emit
	case *routev3.HeaderMatcher_SafeRegexMatch:
		m.Matcher = regex(r, join(path, "safe_regex_match"), s.SafeRegexMatch) //nolint:staticcheck // deprecated, and still what many servers emit
	case *routev3.HeaderMatcher_RangeMatch:
		m.Matcher = rangeMatcher{s.RangeMatch.GetStart(), s.RangeMatch.GetEnd()}
	case *routev3.HeaderMatcher_PresentMatch:
		if !s.PresentMatch {
			m.Invert = !m.Invert
		}
	}
	return m
}

func headerMatches(r *report, path string, hs []*routev3.HeaderMatcher) []snapshot.HeaderMatch {
	var out []snapshot.HeaderMatch
	for i, h := range hs {
		out = append(out, headerMatch(r, at(path, "headers", i), h))
	}
	return out
}

// million turns a share into parts of a million.
func million(r *report, path string, p *typev3.FractionalPercent) uint32 {
	var d uint64
	switch p.GetDenominator() {
	case typev3.FractionalPercent_HUNDRED:
		d = 100
	case typev3.FractionalPercent_TEN_THOUSAND:
		d = 10_000
	case typev3.FractionalPercent_MILLION:
		d = 1_000_000
	default:
		r.add(join(path, "denominator"), "is unknown")
		return 0
	}
	return uint32(min(uint64(p.GetNumerator())*(1_000_000/d), 1_000_000))
}

// runtimeShare reads a share that a runtime key could override; there is no runtime here, so the default holds, as
// it does in Envoy with an empty runtime. unset is what holds where nothing is written.
func runtimeShare(r *report, path string, p *corev3.RuntimeFractionalPercent, unset uint32) uint32 {
	if p == nil {
		return unset
	}
	if p.GetDefaultValue() == nil {
		return 0
	}
	return million(r, join(path, "default_value"), p.GetDefaultValue())
}
