package hpack

import (
	"strings"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

// The static table of RFC 7541, Appendix A, as name=value.
const staticText = ":authority=|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204|:status=206|:status=304|:status=400|:status=404|:status=500|" +
	"accept-charset=|accept-encoding=gzip, deflate|accept-language=|accept-ranges=|accept=|access-control-allow-origin=|age=|allow=|authorization=|cache-control=|content-disposition=|" +
	"content-encoding=|content-language=|content-length=|content-location=|content-range=|content-type=|cookie=|date=|etag=|expect=|expires=|from=|host=|if-match=|if-modified-since=|" +
	"if-none-match=|if-range=|if-unmodified-since=|last-modified=|link=|location=|max-forwards=|proxy-authenticate=|proxy-authorization=|range=|referer=|refresh=|retry-after=|server=|" +
	"set-cookie=|strict-transport-security=|transfer-encoding=|user-agent=|vary=|via=|www-authenticate="

// Static name indexes of the pseudo-header fields; Decoder.Next returns them.
const (
	Authority = 1
	Method    = 2
	Path      = 4
	Scheme    = 6
	Status    = 8
)

const staticLen = 61

var staticTable, staticNames = buildStatic()

func buildStatic() (*[staticLen + 1]*exchange.Entry, map[string]uint8) {
	t := new([staticLen + 1]*exchange.Entry)
	names := map[string]uint8{}
	for i, nv := range strings.Split(staticText, "|") {
		name, value, _ := strings.Cut(nv, "=")
		if names[name] == 0 {
			names[name] = uint8(i + 1)
		}
		t[i+1] = &exchange.Entry{Name: name, Value: value, Known: exchange.Lookup(name), Static: uint8(i + 1), StaticName: names[name]}
	}
	return t, names
}

// staticOf is the static name index of each known field.
var staticOf = func() (t [256]uint8) {
	for name, i := range staticNames {
		if k := exchange.Lookup(name); k != exchange.Other {
			t[k] = i
		}
	}
	return t
}()
