package schema

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// formats are the rules for text; each returns a message and a hint, "" for nothing wrong.
var formats = map[string]func(string) (string, string){
	"label":       label,
	"version":     version,
	"path":        path,
	"regex":       regex,
	"grpc":        grpcName,
	"method":      method,
	"listen":      listen,
	"address":     address,
	"authority":   authority,
	"hostPattern": hostPattern,
	"cidr":        cidr,
	"fieldValue":  fieldValue,
}

// Formats returns the rules' names and what they ask for, for documentation.
func Formats() map[string]string {
	return map[string]string{
		"label":       "DNS label: a-z, 0-9 and -, at most 63, beginning with a letter, not ending with -",
		"version":     "semantic version, as 1.0.0",
		"path":        "path that begins with /",
		"regex":       "regular expression (RE2)",
		"grpc":        "package.Service/Method or package.Service",
		"method":      "HTTP method in upper case",
		"listen":      "host:port, the host an IP address or localhost; or unix: and an absolute path",
		"address":     "host:port",
		"authority":   "host or host:port",
		"hostPattern": "host, or *.host",
		"cidr":        "IP address, or a range of them as 10.0.0.0/8",
		"fieldValue":  "a header field's value: visible ASCII, spaces between",
	}
}

// IsLabel says whether s is a DNS label that begins with a letter.
func IsLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func label(s string) (string, string) {
	if IsLabel(s) {
		return "", ""
	}
	return fmt.Sprintf("%q is not a DNS label", s), "a-z, 0-9 and -, at most 63, beginning with a letter and not ending with -"
}

func version(s string) (string, string) {
	v, err := semver.StrictNewVersion(s)
	if err != nil {
		return fmt.Sprintf("%q is not a semantic version", s), "such as 1.0.0 or 2.1.0-beta.1"
	}
	if v.Metadata() != "" {
		return fmt.Sprintf("%q has build metadata, which does not tell versions apart", s), "leave out the + and what follows"
	}
	if len(s) > 63 {
		return "is longer than 63 bytes", "such as 1.0.0"
	}
	return "", ""
}

func path(s string) (string, string) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return fmt.Sprintf("%q does not begin with /", s), "such as /api"
	case strings.ContainsAny(s, "?#"):
		return fmt.Sprintf("%q holds a query or a fragment", s), "a path alone; conditions on the query go to match.query"
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return fmt.Sprintf("%q holds a space or a control character", s), "write it percent-encoded"
	}
	return "", ""
}

func regex(s string) (string, string) {
	if len(s) > 4096 {
		return "is longer than 4096 bytes", "a shorter expression"
	}
	if _, err := regexp.Compile(s); err != nil {
		return "does not compile: " + strings.TrimPrefix(err.Error(), "error parsing regexp: "), "a regular expression in RE2 syntax"
	}
	return "", ""
}

var grpcWord = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(/[A-Za-z_][A-Za-z0-9_]*)?$`)

func grpcName(s string) (string, string) {
	if grpcWord.MatchString(s) {
		return "", ""
	}
	return fmt.Sprintf("%q is no gRPC method or service", s), "package.Service/Method or package.Service, with no / before it"
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

func method(s string) (string, string) {
	if slices.Contains(methods, s) {
		return "", ""
	}
	if IsToken(s) && strings.ToUpper(s) == s {
		if m := Suggest(s, methods); m != "" && len(s) > 2 {
			return fmt.Sprintf("unknown method %q", s), "did you mean " + m + "?"
		}
		return "", "" // an extension method
	}
	if m := strings.ToUpper(s); IsToken(m) {
		return fmt.Sprintf("%q is not in upper case", s), "write " + m
	}
	return fmt.Sprintf("%q is no method", s), "such as GET or POST"
}

// IsToken says whether s is a token of RFC 9110 §5.6.2, as a field name is.
func IsToken(s string) bool {
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return true
}

func listen(s string) (string, string) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		switch {
		case !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") || strings.ContainsRune(path, 0):
			return fmt.Sprintf("%q is no absolute path of a socket", path), "such as unix:/run/shop/edge.sock"
		case len(path) > 107:
			return fmt.Sprintf("the path has %d bytes", len(path)), "at most 107, which is what the system takes"
		}
		return "", ""
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Sprintf("%q is not host:port", s), "such as 127.0.0.1:8443 or [::1]:8443"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Sprintf("%q is no port", port), "1 to 65535"
	}
	if host != "" && host != "localhost" {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Sprintf("%q is no address to listen on", host), "an IP address, localhost, or nothing for all addresses"
		}
	}
	return "", ""
}

// IsHost says whether s is an IP address or a host name.
func IsHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for l := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' ||
			strings.Trim(l, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return true
}

func address(s string) (string, string) {
	if strings.Contains(s, "://") {
		return fmt.Sprintf("%q is a URL", s), "host:port, without a scheme"
	}
	if host, port, err := net.SplitHostPort(s); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Sprintf("%q is no port", port), "1 to 65535"
		}
		if IsHost(host) {
			return "", ""
		}
	} else if IsHost(s) {
		return "", "" // whether a port must be there depends on the ports
	}
	return fmt.Sprintf("%q is no address", s), "such as db.example:5432 or [::1]:5432"
}

func authority(s string) (string, string) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, "1"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || !IsHost(host) {
		return fmt.Sprintf("%q is no host", s), "a host or host:port, without a scheme or a path"
	}
	return "", ""
}

func fieldValue(s string) (string, string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == ' ' && (i == 0 || i == len(s)-1) {
			return fmt.Sprintf("%q is no header field's value", s), "visible ASCII, with spaces between"
		}
	}
	return "", ""
}

func hostPattern(s string) (string, string) {
	if s != "*" && IsHost(strings.TrimPrefix(s, "*.")) && !strings.Contains(s, ":") {
		return "", ""
	}
	return fmt.Sprintf("%q is no host", s), "such as feed.example or *.example, without a scheme or a port; leave it out for any host"
}

func cidr(s string) (message, hint string) {
	if _, err := netip.ParseAddr(s); err == nil && !strings.Contains(s, "%") {
		return "", ""
	}
	if _, err := netip.ParsePrefix(s); err != nil {
		return fmt.Sprintf("%q is no range of IP addresses", s), "such as 10.0.0.0/8, fd00::/8 or 192.0.2.7"
	}
	return "", ""
}
