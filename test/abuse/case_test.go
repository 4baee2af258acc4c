package abuse

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// testCase is a file of testdata:
//
//	title: what is tried
//	ref: RFC 9112 §6.1; CVE-2019-18277
//	listener: h1                             which listener of the sidecar, default h1 (see sidecar_test.go)
//	counter: NAME label="value" …            a series that must have grown; all labels given must be equal
//	memory: 16M                              by how much the sidecar's peak may exceed what it had, default 16M
//	--- send                                 HTTP/1.1: bytes. Line ends of the file are not sent; \r \n \t \0 \\ \xHH are
//	                                         escapes, ${"abc"*1000} repeats. HTTP/2 listeners: frames, see script
//	--- answer                               what the upstream answers instead of its usual answer, in the same way
//	--- expect                               one expectation a line:
//	status 200 400                           HTTP/1.1: the statuses of all answers, in order
//	status ID 200                            HTTP/2: a stream's status
//	reset ID CODE, goaway CODE               HTTP/2: how a stream or the connection ends (CODE|CODE: either)
//	closed | open                            the connection afterwards; open is tried by another request or a ping
//	answer ~ "text", answer !~ "text"        what the sender got, as bytes (HTTP/1.1)
//	upstream N                               the requests that the upstream saw
//	upstream N-M                             from N to M
//	upstream ~ "text", upstream !~ "text"    their bytes
//	unanswered N                             at most so many requests may have been begun upstream and not ended
type testCase struct {
	name, title, ref, listener string
	counter                    string
	memory                     int64
	send, answer               string
	expect                     []string
}

func readCases(t *testing.T) []*testCase {
	t.Helper()
	files, err := filepath.Glob("testdata/*/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases: ", err)
	}
	var cs []*testCase
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		c, err := parseCase(string(b))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		c.name = strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(f), "testdata/"), ".txt")
		cs = append(cs, c)
	}
	return cs
}

func parseCase(text string) (*testCase, error) {
	c := &testCase{listener: "h1", memory: 16 << 20}
	section := ""
	for i, line := range strings.Split(text, "\n") {
		if name, ok := strings.CutPrefix(line, "--- "); ok {
			section = strings.TrimSpace(name)
			continue
		}
		switch section {
		case "":
			if line == "" || line[0] == '#' {
				continue
			}
			k, v, _ := strings.Cut(line, ": ")
			switch k {
			case "title":
				c.title = v
			case "ref":
				c.ref = v
			case "listener":
				c.listener = v
			case "counter":
				c.counter = v
			case "memory":
				n, err := strconv.ParseInt(strings.TrimSuffix(v, "M"), 10, 32)
				if err != nil {
					return nil, fmt.Errorf("line %d: %w", i+1, err)
				}
				c.memory = n << 20
			default:
				return nil, fmt.Errorf("line %d: unknown key %q", i+1, k)
			}
		case "send":
			c.send += line + "\n"
		case "answer":
			c.answer += line + "\n"
		case "expect":
			if line = strings.TrimSpace(line); line != "" {
				c.expect = append(c.expect, line)
			}
		default:
			return nil, fmt.Errorf("line %d: unknown section %q", i+1, section)
		}
	}
	if c.title == "" || c.send == "" || len(c.expect) == 0 {
		return nil, fmt.Errorf("title, send and expect are needed")
	}
	if !strings.Contains(c.ref, "RFC ") && !strings.Contains(c.ref, "CVE-") {
		return nil, fmt.Errorf("ref names no RFC and no CVE")
	}
	return c, nil
}

// expand turns the text of a section into bytes.
func expand(s string) ([]byte, error) {
	var b []byte
	for i := 0; i < len(s); {
		switch {
		case s[i] == '\n':
			i++
		case s[i] == '\\':
			if i+1 >= len(s) {
				return nil, fmt.Errorf("a backslash at the end")
			}
			switch s[i+1] {
			case 'r':
				b = append(b, '\r')
			case 'n':
				b = append(b, '\n')
			case 't':
				b = append(b, '\t')
			case '0':
				b = append(b, 0)
			case '\\':
				b = append(b, '\\')
			case 'x':
				n, err := strconv.ParseUint(s[i+2:min(i+4, len(s))], 16, 8)
				if err != nil {
					return nil, err
				}
				b = append(b, byte(n))
				i += 2
			default:
				return nil, fmt.Errorf("unknown escape \\%c", s[i+1])
			}
			i += 2
		case strings.HasPrefix(s[i:], `${"`):
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return nil, fmt.Errorf("${ without }")
			}
			word, times, ok := strings.Cut(s[i+3:i+end], `"*`)
			n, err := strconv.Atoi(times)
			if !ok || err != nil {
				return nil, fmt.Errorf("want ${\"text\"*times}: %q", s[i:i+end+1])
			}
			w, err := expand(word)
			if err != nil {
				return nil, err
			}
			for range n {
				b = append(b, w...)
			}
			i += end + 1
		default:
			b = append(b, s[i])
			i++
		}
	}
	return b, nil
}
