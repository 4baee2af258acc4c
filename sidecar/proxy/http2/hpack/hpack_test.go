package hpack

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

func TestStaticTable(t *testing.T) {
	for i := 1; i <= staticLen; i++ {
		fs, err := xhpack.NewDecoder(4096, nil).DecodeFull([]byte{0x80 | byte(i)})
		if err != nil {
			t.Fatal(err)
		}
		if e := staticTable[i]; e.Name != fs[0].Name || e.Value != fs[0].Value {
			t.Errorf("%d: %s=%s, want %s=%s", i, e.Name, e.Value, fs[0].Name, fs[0].Value)
		}
	}
}

func TestHuffman(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		n := r.IntN(40)
		var s strings.Builder
		for range n {
			s.WriteByte(byte(r.IntN(256)))
		}
		enc := xhpack.AppendHuffmanString(nil, s.String())
		if b, ok := appendHuffman(nil, enc); !ok || string(b) != s.String() {
			t.Fatalf("%q: got %q, %v", s.String(), b, ok)
		}
		// any mutation: as the library says
		if len(enc) > 0 {
			enc[r.IntN(len(enc))] ^= 1 << r.IntN(8)
			want, err := xhpack.HuffmanDecodeToString(enc)
			b, ok := appendHuffman(nil, enc)
			if ok != (err == nil) || ok && string(b) != want {
				t.Fatalf("% x: got %q, %v; the library %q, %v", enc, b, ok, want, err)
			}
		}
	}
}

// Blocks written by each encoder are read by both decoders, with sizes changing on the way.
func TestAgainstLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var libOut strings.Builder
	libEnc := xhpack.NewEncoder(&libOut)
	libDec := xhpack.NewDecoder(4096, nil)
	var libDecoded []string
	libDec.SetEmitFunc(func(f xhpack.HeaderField) { libDecoded = append(libDecoded, f.Name+": "+f.Value) })
	var enc Encoder
	var dec Decoder
	var x exchange.Exchange
	for round := range 3000 {
		if r.IntN(50) == 0 {
			n := uint32(r.IntN(5000))
			enc.SetMax(n)
			libDec.SetAllowedMaxDynamicTableSize(4096)
			libEnc.SetMaxDynamicTableSizeLimit(min(n, 4096))
			libEnc.SetMaxDynamicTableSize(min(n, 4096))
		}
		libOut.Reset()
		var want []string
		for range r.IntN(12) {
			f := xhpack.HeaderField{Name: fmt.Sprintf("x-%d", r.IntN(30)), Value: strings.Repeat("v", r.IntN(60)) + fmt.Sprint(r.IntN(20)), Sensitive: r.IntN(20) == 0}
			if r.IntN(4) == 0 {
				f.Name = staticTable[1+r.IntN(staticLen)].Name
				if f.Name[0] == ':' {
					f.Name = "accept"
				}
			}
			libEnc.WriteField(f)
			want = append(want, f.Name+": "+f.Value)
		}
		// library -> our decoder -> our encoder -> library's decoder
		x.Reset()
		dec.Start([]byte(libOut.String()))
		out := enc.Start(nil)
		var got []string
		for {
			var f exchange.Field
			_, done, err := dec.Next(&f, &x)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if done {
				break
			}
			got = append(got, f.Name+": "+f.Value)
			out = enc.Field(out, &f)
		}
		libDecoded = nil
		if _, err := libDec.Write(out); err != nil {
			t.Fatalf("round %d: the library refuses our block: %v", round, err)
		}
		if err := libDec.Close(); err != nil {
			t.Fatal(err)
		}
		if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
			t.Fatalf("round %d: decoded\n%s\nwant\n%s", round, a, b)
		}
		if a, b := strings.Join(libDecoded, "\n"), strings.Join(want, "\n"); a != b {
			t.Fatalf("round %d: relayed\n%s\nwant\n%s", round, a, b)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff})
	f.Add([]byte{0x3f, 0xe1, 0x1f, 0x40, 1, 'a', 1, 'b', 0xbe})
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Decoder
		var x exchange.Exchange
		var fl exchange.Field
		lib := xhpack.NewDecoder(4096, nil)
		var want []string
		lib.SetEmitFunc(func(f xhpack.HeaderField) { want = append(want, f.Name+": "+f.Value) })
		_, lerr := lib.Write(b)
		if lerr == nil {
			lerr = lib.Close()
		}
		d.Start(b)
		var got []string
		for {
			_, done, err := d.Next(&fl, &x)
			if err == ErrCompression {
				return
			}
			if done {
				break
			}
			got = append(got, fl.Name+": "+fl.Value)
		}
		if lerr == nil && strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("decoded\n%q\nthe library\n%q", got, want)
		}
	})
}

func TestRelayAllocs(t *testing.T) {
	var enc Encoder
	var dec Decoder
	var x exchange.Exchange
	var out strings.Builder
	le := xhpack.NewEncoder(&out)
	buf := make([]byte, 0, 4096)
	one := func() {
		dec.Start([]byte(out.String()))
		buf = enc.Start(buf[:0])
		var f exchange.Field
		for {
			_, done, err := dec.Next(&f, &x)
			if done {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			buf = enc.Field(buf, &f)
		}
	}
	for range 2 {
		out.Reset()
		for i := range 8 {
			le.WriteField(xhpack.HeaderField{Name: "x-header", Value: fmt.Sprint(i)})
		}
		one()
	}
	b := []byte(out.String())
	if n := testing.AllocsPerRun(100, func() {
		x.Reset()
		dec.Start(b)
		buf = enc.Start(buf[:0])
		var f exchange.Field
		for {
			_, done, _ := dec.Next(&f, &x)
			if done {
				break
			}
			buf = enc.Field(buf, &f)
		}
	}); n != 0 {
		t.Fatalf("%v allocations a block", n)
	}
}

// What one encoder writes, block after block with the peer's table size changing between, the library reads back the same.
// in is a program: each byte adds a field or, from 0xf0 on, ends the block and sets a size.
func FuzzRelay(f *testing.F) {
	f.Add([]byte{1, 2, 3, 1, 0xf0, 1, 2, 3, 0xf4, 1, 2, 0xff, 1, 1, 1})
	f.Add([]byte{0x10, 0x21, 0x32, 0x43, 0x54, 0x65, 0x76, 0x87, 0xf1, 0x10, 0x21, 0x32, 0xf2, 0x43, 0xfe, 0x10, 0x10})
	f.Fuzz(func(t *testing.T, in []byte) {
		var fromOut strings.Builder
		from := xhpack.NewEncoder(&fromOut)
		to := xhpack.NewDecoder(4096, nil)
		var want, got []string
		to.SetEmitFunc(func(f xhpack.HeaderField) { got = append(got, f.Name+": "+f.Value) })
		var dec Decoder
		var enc Encoder
		var x exchange.Exchange
		flush := func() {
			x.Reset()
			dec.Start([]byte(fromOut.String()))
			fromOut.Reset()
			out := enc.Start(nil)
			for {
				var fl exchange.Field
				_, done, err := dec.Next(&fl, &x)
				if done {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				out = enc.Field(out, &fl)
			}
			if _, err := to.Write(out); err != nil {
				t.Fatalf("% x: %v", out, err)
			}
			if err := to.Close(); err != nil {
				t.Fatal(err)
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Fatalf("got %q, want %q", got, want)
			}
			got, want = got[:0], want[:0]
		}
		for i, c := range in {
			if c >= 0xf0 {
				flush()
				n := uint32(c&15) * 300
				enc.SetMax(n)
				to.SetAllowedMaxDynamicTableSize(min(n, 4096))
				if c&1 == 0 {
					from.SetMaxDynamicTableSize(n)
				}
				continue
			}
			hf := xhpack.HeaderField{Name: fmt.Sprintf("x-%d", c>>4), Value: strings.Repeat("v", int(c&15)*20), Sensitive: i%11 == 10}
			if err := from.WriteField(hf); err != nil {
				t.Fatal(err)
			}
			want = append(want, hf.Name+": "+hf.Value)
		}
		flush()
	})
}

// TestVaryingAllocs relays fields that go into the table and never come again, as grpc-go sends them: no allocation, and they
// do not push the others out of the upstream's table.
func TestVaryingAllocs(t *testing.T) {
	var in strings.Builder
	le := xhpack.NewEncoder(&in)
	var blocks [][]byte
	for i := range 400 {
		in.Reset()
		for _, f := range []xhpack.HeaderField{
			{Name: ":path", Value: fmt.Sprintf("/echo.Echo/Unary%d", i)},
			{Name: "content-type", Value: "application/grpc"},
			{Name: "te", Value: "trailers"},
			{Name: "grpc-timeout", Value: fmt.Sprintf("%du", 1000000+i)},
			{Name: "x-call", Value: fmt.Sprintf("some value of call %d", i)},
		} {
			if err := le.WriteField(f); err != nil {
				t.Fatal(err)
			}
		}
		blocks = append(blocks, []byte(in.String()))
	}
	var enc Encoder
	var dec Decoder
	var x exchange.Exchange
	buf := make([]byte, 0, 4096)
	next := 0
	one := func() {
		dec.Start(blocks[next])
		next++
		buf = enc.Start(buf[:0])
		var f exchange.Field
		for {
			_, done, err := dec.Next(&f, &x)
			if err != nil {
				t.Fatal(err)
			}
			if done {
				break
			}
			buf = enc.Field(buf, &f)
		}
		x.Reset()
	}
	for range 150 {
		one()
	}
	// An entry that was referred to is the collector's once it is pushed out: the two that repeat, once in about twenty calls.
	if n := testing.AllocsPerRun(200, one); n >= 1 {
		t.Errorf("%v allocations a call", n)
	}
	if enc.n != 2 {
		t.Errorf("the upstream's table has %d entries, want the two that repeat", enc.n)
	}
}
