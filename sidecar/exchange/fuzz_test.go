package exchange

import (
	"strings"
	"testing"
)

// Flags that were read, written and read again are the same.
func FuzzParseFlags(f *testing.F) {
	for _, s := range []string{"-", "", "UF,URX", "UH", "x,UF,,UF", ","} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fl := ParseFlags(s)
		if again := ParseFlags(fl.String()); again != fl {
			t.Fatalf("%q: %v, then %v", s, fl, again)
		}
	})
}

// A header is what a list of lines is: in is a program, each byte an operation on one of eight names.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{0x00, 0x01, 0x10, 0x21, 0x32, 0x00})
	f.Add([]byte{0x02, 0x22, 0x12, 0x32, 0x02, 0x05, 0x15, 0x35, 0x25})
	names := []string{"Host", "Content-Length", "X-A", "x-b", "Cookie", "TE", "X-C", "Via"}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 200 {
			return
		}
		var h Header
		h.Reset()
		var model []Field
		find := func(name string) int {
			for i := range model {
				if strings.EqualFold(model[i].Name, name) {
					return i
				}
			}
			return -1
		}
		del := func(name string) {
			kept := model[:0]
			for _, m := range model {
				if !strings.EqualFold(m.Name, name) {
					kept = append(kept, m)
				}
			}
			model = kept
		}
		for n, c := range in {
			name, value := names[c&7], strings.Repeat("v", n%5)
			switch c >> 4 & 3 {
			case 0:
				h.Add(name, value)
				model = append(model, Field{Name: name, Value: value})
			case 1:
				h.Set(name, value)
				if i := find(name); i >= 0 {
					rest := append([]Field(nil), model[i+1:]...)
					model = model[:i]
					model = append(model, Field{Name: name, Value: value})
					for _, m := range rest {
						if !strings.EqualFold(m.Name, name) {
							model = append(model, m)
						}
					}
				} else {
					model = append(model, Field{Name: name, Value: value})
				}
			case 2:
				if h.Del(name) != (find(name) >= 0) {
					t.Fatalf("%v: Del(%s) of %v", in[:n+1], name, model)
				}
				del(name)
			default:
				if k := Lookup(name); k != Other {
					h.DelKnown(k)
					del(name)
				}
			}
			for _, name := range names {
				v, ok := h.Get(name)
				i := find(name)
				if ok != (i >= 0) || ok && v != model[i].Value || Lookup(name) != Other && h.Has(Lookup(name)) != ok {
					t.Fatalf("%v: %s is %q %v, want %v", in[:n+1], name, v, ok, model)
				}
			}
		}
		i := 0
		for _, fl := range h.Fields {
			if fl.Flags&Dropped != 0 {
				continue
			}
			if i >= len(model) || !strings.EqualFold(fl.Name, model[i].Name) || fl.Value != model[i].Value {
				t.Fatalf("%v: %v, want %v", in, h.Fields, model)
			}
			i++
		}
		if i != len(model) {
			t.Fatalf("%v: %d fields, want %v", in, i, model)
		}
	})
}
