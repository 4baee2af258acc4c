package runner

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestSocketTable(t *testing.T) {
	var table socketTable
	defer table.close()
	a, err := table.open(Listen{"a", "tcp", "127.0.0.1:0"}, true)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(a.Address)
	for _, same := range []Listen{{"a", "tcp", "127.0.0.1:0"}, {"a", "tcp", a.Address}, {"a", "tcp", "localhost:" + port}} {
		if got, err := table.open(same, false); err != nil || got != a {
			t.Errorf("%+v opened another socket: %+v, %v", same, got, err)
		}
	}
	if _, err := table.open(Listen{"b", "tcp", a.Address}, false); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("two sockets on one address: %v", err)
	}
	moved, err := table.open(Listen{"a", "tcp", "[::1]:0"}, false)
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	if moved.Address == a.Address || len(table.all()) != 1 {
		t.Errorf("%+v of %d", moved, len(table.all()))
	}
	if c, err := net.Dial("tcp", a.Address); err == nil {
		c.Close()
		t.Error("the replaced socket is still open")
	}
	table.release("a")
	if len(table.all()) != 1 {
		t.Error("a socket of the spec was released")
	}
	if _, err := table.open(Listen{"c", "tcp", "127.0.0.1:0"}, false); err != nil {
		t.Fatal(err)
	}
	table.release("c")
	if len(table.all()) != 1 {
		t.Error("a socket that the sidecar asked for was kept")
	}
}

func TestWildcardsTakeBothFamilies(t *testing.T) {
	for _, l := range []Listen{{"a", "tcp", ":0"}, {"b", "tcp4", ":0"}, {"c", "tcp", "0.0.0.0:0"}} {
		f, actual, err := openSocket(l.Network, l.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, port, _ := net.SplitHostPort(actual)
		c, err := net.Dial("tcp4", "127.0.0.1:"+port)
		if err != nil {
			t.Errorf("%s %s at %s: %v", l.Network, l.Address, actual, err)
			continue
		}
		c.Close()
	}
	if _, _, err := openSocket("unix", "@abstract"); err == nil {
		t.Error("an abstract socket was opened")
	}
}

func TestUnixSocketOfTheTable(t *testing.T) {
	var table socketTable
	path := filepath.Join(t.TempDir(), "s.sock")
	k, err := table.open(Listen{"a", "unix", path}, false)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	c, err := net.Dial("unix", k.Address)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	table.close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Error("its path is still there")
	}
}

func TestRefuseAndAdmit(t *testing.T) {
	var table socketTable
	defer table.close()
	k, err := table.open(Listen{"a", "tcp", "127.0.0.1:0"}, true)
	if err != nil {
		t.Fatal(err)
	}
	table.refuse()
	table.refuse()
	if _, err := ask(k.Address, "hello"); err == nil || os.IsTimeout(err) {
		t.Errorf("got %v, want a reset", err)
	}
	table.admit()
	c, err := net.Dial("tcp", k.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := net.FileListener(k.File)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
}

func TestParseHexAddr(t *testing.T) {
	for in, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000:0050":                         "0.0.0.0:80",
		"00000000000000000000000001000000:0016": "[::1]:22",
		"0000000000000000FFFF00000100007F:0016": "[::ffff:127.0.0.1]:22",
	} {
		if got, ok := parseHexAddr(in); !ok || got.String() != want {
			t.Errorf("%s is %v, want %s", in, got, want)
		}
	}
	for _, bad := range []string{"", "0100007F", "xx:0050", "0100:0050", "0100007F:10000"} {
		if _, ok := parseHexAddr(bad); ok {
			t.Errorf("%q passed", bad)
		}
	}
}

// TestHeldSocketsDoNotWakeTheRunner guards hold: a runner that polls its sidecar's sockets wakes for each of its connections.
func TestHeldSocketsDoNotWakeTheRunner(t *testing.T) {
	i := launch(t, specFor(t, "serve"))
	s := i.ready()
	proc := "/proc/" + strconv.Itoa(s.RunnerPID)
	inodes := map[string]int{}
	if !sockets(s.RunnerPID, inodes) {
		t.Skip("its descriptors cannot be read")
	}
	held := ""
	for _, l := range allListening() {
		if l.addr.String() == s.Sockets[0].Address {
			held = l.inode
		}
	}
	if inodes[held] == 0 {
		t.Fatal("the runner does not hold its socket")
	}
	n, err := strconv.Atoi(held)
	if err != nil {
		t.Fatal(err)
	}
	polled := fmt.Sprintf("ino:%x ", n)
	files, err := os.ReadDir(proc + "/fdinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, _ := os.ReadFile(proc + "/fdinfo/" + f.Name())
		if strings.Contains(string(b), "tfd:") && strings.Contains(string(b), polled) {
			t.Errorf("the runner polls the socket:\n%s", b)
		}
	}
}
