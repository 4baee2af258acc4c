package grpcweb

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

func TestKind(t *testing.T) {
	for ct, want := range map[string]struct {
		text, ok bool
		suffix   string
	}{
		"application/grpc-web":                     {false, true, ""},
		"application/grpc-web+proto":               {false, true, "+proto"},
		"Application/gRPC-Web-Text+proto":          {true, true, "+proto"},
		"application/grpc-web-text; charset=utf-8": {true, true, "; charset=utf-8"},
		"application/grpc":                         {},
		"application/grpc+proto":                   {},
		"application/grpc-webby":                   {false, false, "by"},
		"application/json":                         {},
		"application/grpc-web-texts":               {true, false, "s"},
	} {
		if text, ok, suffix := kind(ct); text != want.text || ok != want.ok || suffix != want.suffix {
			t.Errorf("%s: %v %v %q", ct, text, ok, suffix)
		}
	}
}

// What was split anywhere, and padded anywhere, is read whole.
func TestDecoder(t *testing.T) {
	data := []byte("\x00\x00\x00\x00\x05hello, and more than that")
	for cut := range data {
		enc := base64.StdEncoding.EncodeToString(data[:cut]) + base64.StdEncoding.EncodeToString(data[cut:])
		for step := 1; step < 8; step++ {
			var got []byte
			d := &decoder{}
			var err error
			for i := 0; i < len(enc) && err == nil; i += step {
				e := min(i+step, len(enc))
				got, err = d.Transform(got, []byte(enc[i:e]), e == len(enc))
			}
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("cut %d step %d: %q %v", cut, step, got, err)
			}
		}
	}
	for _, bad := range []string{"a", "ab", "abc", "ab=", "a===", "=abc", "ab=c", "ab!c", "abcd\n", "abc=d"} {
		if got, err := (&decoder{}).Transform(nil, []byte(bad), true); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

func TestEncoder(t *testing.T) {
	for _, text := range []bool{false, true} {
		x := &exchange.Exchange{}
		x.Reset()
		e := &encoder{x: x, text: text}
		src := []byte("message!")
		a, _ := e.Transform(nil, src[:7], false)
		x.RespTrailer.Add("Grpc-Status", "0")
		x.RespTrailer.Add("grpc-message", "")
		b, _ := e.Transform(nil, src[7:], true)
		if len(x.RespTrailer.Fields) != 0 {
			t.Error("the trailers are there twice")
		}
		want := "message!\x80\x00\x00\x00\x20grpc-status: 0\r\ngrpc-message: \r\n"
		got := append(a, b...)
		if text {
			var err error
			if got, err = (&decoder{}).Transform(nil, got, true); err != nil {
				t.Fatal(err)
			}
		}
		if want = want[:12] + string(rune(len(want)-13)) + want[13:]; string(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	for _, s := range []string{"", "AAAA", "AA==AAA=", "A", "====", "AAAA\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := (&decoder{}).Transform(nil, b, true)
		want, werr := base64.StdEncoding.DecodeString(string(b))
		if werr == nil && !bytes.ContainsAny(b, "\r\n") && (err != nil || !bytes.Equal(got, want)) {
			t.Fatalf("%q became %q, %v; the library's %q", b, got, err, want)
		}
		if err == nil && len(got) > len(b) {
			t.Fatal("grew")
		}
	})
}
