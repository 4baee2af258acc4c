package console

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
)

// tokenBytes of randomness are in a token, and tokenMin characters at least in one that somebody wrote.
const (
	tokenBytes = 32
	tokenMin   = 16
)

// Token reads the token in a file, and makes the file, 0600, with a new one where it is missing.
func Token(file string) (string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		var secret [tokenBytes]byte
		_, _ = rand.Read(secret[:]) // never fails
		b = []byte(hex.EncodeToString(secret[:]) + "\n")
		var f *os.File
		if f, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			_, err = f.Write(b)
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		return "", fmt.Errorf("the console's token: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("the console's token: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("the console's token: %s can be read by others (mode %#o): chmod 600", file, info.Mode().Perm())
	}
	token := strings.TrimSpace(string(b))
	if len(token) < tokenMin {
		return "", fmt.Errorf("the console's token: %s holds %d characters; %d are the least", file, len(token), tokenMin)
	}
	return token, nil
}

// Guard lets through who knows the token ("Authorization: Bearer TOKEN"), and no web page: loopback is open to every
// program of every user of the host, and a browser carries what any page tells it to say. A page would show itself by
// its Origin, or, where a name of its own leads to loopback, by its Host.
func Guard(next http.Handler, token string) http.Handler {
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(given))
		switch {
		case !loopbackHost(r.Host):
			http.Error(w, "the console is asked by its address or as localhost", http.StatusForbidden)
		case r.Header.Get("Origin") != "":
			http.Error(w, "the console answers no web page", http.StatusForbidden)
		case !ok || subtle.ConstantTimeCompare(got[:], want[:]) != 1:
			w.Header().Set("WWW-Authenticate", `Bearer realm="outrigger"`)
			http.Error(w, "the console asks for its token: Authorization: Bearer TOKEN", http.StatusUnauthorized)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback()
}
