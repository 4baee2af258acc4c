package http2

import (
	"bytes"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/proxy/http1"
)

// A header block that is taken is taken by the library too, with the same pseudo-header fields, and what it says can be said in
// HTTP/1.1 so that it means the same there: nothing in a field ends its line.
func FuzzHeaders(f *testing.F) {
	for _, fs := range [][]string{
		{":method", "GET", ":path", "/a?b", ":scheme", "http", ":authority", "x:1", "cookie", "a=b", "cookie", "c=d", "te", "trailers"},
		{":method", "POST", ":path", "/", ":scheme", "https", "host", "x", "content-length", "3", "content-length", "3", "a", ""},
		{":method", "CONNECT", ":authority", "x:1"},
		{":method", "CONNECT", ":protocol", "websocket", ":path", "/", ":scheme", "http", ":authority", "x"},
		{":status", "200", "content-length", "5", "set-cookie", "a", "set-cookie", "b"},
		{":status", "999"},
		{"grpc-status", "0"},
		{":method", "GET", ":path", "/ HTTP/1.1\r\nx: y", ":scheme", "http", "a b", "c\r\nd"},
		{":method", "G T", ":path", "x", ":scheme", "http", "Up", "1"},
		{"a", "b", ":method", "GET"},
		{":method", "GET", ":method", "GET", ":path", "/", ":scheme", "http", "connection", "close"},
	} {
		var b bytes.Buffer
		e := xhpack.NewEncoder(&b)
		for i := 0; i < len(fs); i += 2 {
			if err := e.WriteField(xhpack.HeaderField{Name: fs[i], Value: fs[i+1]}); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b.Bytes(), true)
		f.Add(b.Bytes(), false)
	}
	f.Fuzz(func(t *testing.T, block []byte, request bool) {
		if len(block) > minMaxFrame {
			return
		}
		h := conn{maxHead: maxHeaderBlock, maxFields: maxHeaderFields}
		var x exchange.Exchange
		x.Reset()
		head := &x.Req
		if !request {
			head = &x.Resp
		}
		head.Reset()
		ok, fatal := h.decode(block, &x, head, &head.Header, request)
		if !ok || fatal || h.tooLarge {
			return
		}
		var buf bytes.Buffer
		fr := xhttp2.NewFramer(&buf, &buf)
		fr.ReadMetaHeaders = xhpack.NewDecoder(4096, nil)
		fr.MaxHeaderListSize = 1 << 20
		if err := fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
		got, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("taken; the library says %v, %v", err, fr.ErrorDetail())
		}
		m := got.(*xhttp2.MetaHeadersFrame)
		if !request {
			if m.PseudoValue("status") != string([]byte{byte('0' + head.Status/100), byte('0' + head.Status/10%10), byte('0' + head.Status%10)}) {
				t.Fatalf("%d; the library reads %s", head.Status, m.PseudoValue("status"))
			}
			return
		}
		if head.Method != m.PseudoValue("method") || head.Path != m.PseudoValue("path") || head.Protocol != m.PseudoValue("protocol") {
			t.Fatalf("%+v; the library reads %v", head, m)
		}
		if head.Method == "CONNECT" || head.Authority == "" {
			return
		}
		var back exchange.Head
		var framing http1.Framing
		back.Reset()
		out := http1.AppendRequest(nil, head, &http1.How{Length: -1})
		n, herr := http1.ParseRequest(out, &back, &framing, http1.Limits{Bytes: len(out) + 1, Fields: exchange.MaxFields})
		if herr != nil || n != len(out) || back.Method != head.Method || back.Path != head.Path || !strings.EqualFold(back.Authority, head.Authority) {
			t.Fatalf("sent on as %q: %v", out, herr)
		}
	})
}
