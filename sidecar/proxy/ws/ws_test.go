package ws

import (
	"encoding/base64"
	"encoding/binary"
	"testing"
)

// RFC 6455 §1.3 has this example.
func TestAccept(t *testing.T) {
	if got := string(AppendAccept(nil, "dGhlIHNhbXBsZSBub25jZQ==")); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatal(got)
	}
}

func TestKey(t *testing.T) {
	b, err := base64.StdEncoding.DecodeString(string(AppendKey(nil, 1, 2)))
	if err != nil || len(b) != 16 || binary.LittleEndian.Uint64(b) != 1 || binary.LittleEndian.Uint64(b[8:]) != 2 {
		t.Fatal(b, err)
	}
}

func TestBase64(t *testing.T) {
	src := make([]byte, 64)
	for i := range src {
		src[i] = byte(i * 37)
		if got, want := string(appendBase64(nil, src[:i])), base64.StdEncoding.EncodeToString(src[:i]); got != want {
			t.Fatal(got, want)
		}
	}
}
