package proxyproto

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
)

func v2(cmd, fam byte, body string) string {
	return sigV2 + string([]byte{cmd, fam, byte(len(body) >> 8), byte(len(body))}) + body
}

const ip4 = "\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\x00\x00\x50"

var ip6 = string(make([]byte, 15)) + "\x01" + "\x20\x01\x0d\xb8" + string(make([]byte, 12)) + "\x04\x00\x01\xbb"

// summed is an IPv4 header with a checksum, and another field behind it.
func summed(wrong bool) string {
	b := []byte(v2(0x21, 0x11, ip4+"\x03\x00\x04\x00\x00\x00\x00"+"\x04\x00\x02ab"))
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	if wrong {
		sum++
	}
	binary.BigEndian.PutUint32(b[16+12+3:], sum)
	return string(b)
}

func TestParse(t *testing.T) {
	for name, k := range map[string]struct {
		in       string
		src, dst string
		err      error
	}{
		"TCP4":                   {in: "PROXY TCP4 192.0.2.1 192.0.2.2 1024 80\r\n", src: "192.0.2.1:1024", dst: "192.0.2.2:80"},
		"TCP6":                   {in: "PROXY TCP6 ::1 2001:db8::2 1 65535\r\n", src: "[::1]:1", dst: "[2001:db8::2]:65535"},
		"TCP6 mapped":            {in: "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", src: "192.0.2.1:1", dst: "[::1]:2"},
		"UNKNOWN":                {in: "PROXY UNKNOWN\r\n"},
		"UNKNOWN and more":       {in: "PROXY UNKNOWN ffff:: whatever\r\n"},
		"bare LF":                {in: "PROXY TCP4 192.0.2.1 192.0.2.2 1024 80\n", err: errV1},
		"two spaces":             {in: "PROXY TCP4  192.0.2.1 192.0.2.2 1024 80\r\n", err: errV1},
		"trailing space":         {in: "PROXY TCP4 192.0.2.1 192.0.2.2 1024 80 \r\n", err: errV1},
		"lower case":             {in: "proxy tcp4 192.0.2.1 192.0.2.2 1024 80\r\n", err: ErrNone},
		"another family":         {in: "PROXY TCP4 ::1 ::1 1 2\r\n", err: errV1},
		"leading zero":           {in: "PROXY TCP4 192.0.2.1 192.0.2.2 01024 80\r\n", err: errV1},
		"zero in an address":     {in: "PROXY TCP4 192.0.2.01 192.0.2.2 1024 80\r\n", err: errV1},
		"port too large":         {in: "PROXY TCP4 192.0.2.1 192.0.2.2 65536 80\r\n", err: errV1},
		"signed port":            {in: "PROXY TCP4 192.0.2.1 192.0.2.2 +1 80\r\n", err: errV1},
		"zone":                   {in: "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", err: errV1},
		"missing port":           {in: "PROXY TCP4 192.0.2.1 192.0.2.2 1024\r\n", err: errV1},
		"CR within":              {in: "PROXY UNKNOWN a\rb\r\n", err: errV1},
		"no family":              {in: "PROXY \r\n", err: errV1},
		"too long":               {in: "PROXY UNKNOWN " + strings.Repeat("x", 100), err: errLongV1},
		"not a header":           {in: "GET / HTTP/1.1\r\n", err: ErrNone},
		"POST begins alike":      {in: "POST / HTTP/1.1\r\n", err: ErrNone},
		"v2 IPv4":                {in: v2(0x21, 0x11, ip4), src: "192.0.2.1:1024", dst: "192.0.2.2:80"},
		"v2 IPv6":                {in: v2(0x21, 0x21, ip6), src: "[::1]:1024", dst: "[2001:db8::]:443"},
		"v2 fields":              {in: v2(0x21, 0x11, ip4+"\x01\x00\x02h2"), src: "192.0.2.1:1024", dst: "192.0.2.2:80"},
		"v2 checksum":            {in: summed(false), src: "192.0.2.1:1024", dst: "192.0.2.2:80"},
		"v2 wrong checksum":      {in: summed(true), err: errSum},
		"v2 LOCAL":               {in: v2(0x20, 0, "")},
		"v2 LOCAL, addresses":    {in: v2(0x20, 0x11, ip4)},
		"v2 Unix":                {in: v2(0x21, 0x31, string(make([]byte, 216)))},
		"v2 UNSPEC":              {in: v2(0x21, 0, "anything")},
		"v2 short":               {in: v2(0x21, 0x11, ip4[:11]), err: errShort},
		"v2 datagram":            {in: v2(0x21, 0x12, ip4), err: errDatagram},
		"v2 version 1":           {in: v2(0x11, 0x11, ip4), err: errVersion},
		"v2 command 2":           {in: v2(0x22, 0x11, ip4), err: errCommand},
		"v2 family 4":            {in: v2(0x21, 0x41, ip4), err: errFamily},
		"v2 transport 3":         {in: v2(0x21, 0x13, ip4), err: errFamily},
		"v2 field beyond it":     {in: v2(0x21, 0x11, ip4+"\x01\x00\x03h2"), err: errTLV},
		"v2 half a field":        {in: v2(0x21, 0x11, ip4+"\x01\x00"), err: errTLV},
		"v2 longer than we take": {in: v2(0x21, 0x11, ip4+strings.Repeat("x", maxV2)), err: errLongV2},
	} {
		t.Run(name, func(t *testing.T) {
			for _, tail := range []string{"", "PROXY of the body"} {
				h, n, err := Parse([]byte(k.in + tail))
				if !errors.Is(err, k.err) {
					t.Fatalf("%v, want %v", err, k.err)
				}
				if err != nil {
					return
				}
				if n != len(k.in) {
					t.Errorf("%d bytes, want %d", n, len(k.in))
				}
				if k.src == "" && (h.Source.IsValid() || h.Destination.IsValid()) || k.src != "" && (h.Source.String() != k.src || h.Destination.String() != k.dst) {
					t.Errorf("%v", h)
				}
			}
			for i := range k.in { // a part of it is not a header yet, and never one that is something else
				if h, n, err := Parse([]byte(k.in[:i])); k.err == nil && (n != 0 || err != nil) {
					t.Fatalf("%d bytes: %v %d %v", i, h, n, err)
				}
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1024 80\r\n"))
	f.Add([]byte("PROXY UNKNOWN x\r\nGET"))
	f.Add([]byte(v2(0x21, 0x11, ip4+"\x01\x00\x02h2")))
	f.Add([]byte(v2(0x21, 0x21, ip6)))
	f.Add([]byte(summed(false)))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := Parse(b)
		if n > len(b) || n > Max || err != nil && n != 0 && errors.Is(err, ErrNone) {
			t.Fatal(n, err)
		}
		if err != nil || n == 0 {
			return
		}
		// What was read can be told again, in both versions, and reads the same.
		for v := 1; v <= 2; v++ {
			again := Append(nil, v, h.Source, h.Destination)
			g, k, err := Parse(again)
			if err != nil || k != len(again) || g.Source != h.Source || g.Destination != h.Destination || g.Version != v {
				t.Fatalf("%v, then by version %d %q: %v %v", h, v, again, g, err)
			}
		}
		// It does not depend on what is behind it.
		if g, k, err := Parse(append(append([]byte{}, b[:n]...), 'x')); err != nil || k != n || g != h {
			t.Fatal(g, k, err)
		}
	})
}

func TestAppendMixedFamilies(t *testing.T) {
	src, dst := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[2001:db8::1]:2")
	for v := 1; v <= 2; v++ {
		if h, _, err := Parse(Append(nil, v, src, dst)); err != nil || h.Source != src || h.Destination != dst {
			t.Error(h, err)
		}
	}
}
