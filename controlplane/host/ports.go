package host

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// ErrNoPort says that the range of ports is used up.
var ErrNoPort = errors.New("no free port is left in the range")

// allotter gives out ports and remembers them. Serve's goroutine alone uses it.
type allotter struct {
	db          *database
	first, last int
	next        int
	byKey       map[string]int
	byPort      map[int]string
	pending     map[string][]byte
}

// newAllotter begins at a place of the range that differs from one state directory to the next, so that two meshes on a
// machine seldom meet.
func newAllotter(db *database, first, last int, seed string) (*allotter, error) {
	if first < 1 || last > 65535 || first > last {
		return nil, fmt.Errorf("ports %d to %d are no range", first, last)
	}
	known, err := db.portNumbers()
	if err != nil {
		return nil, err
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(seed))
	a := &allotter{
		db: db, first: first, last: last, next: first + int(hash.Sum32()%uint32(last-first+1)),
		byKey: known, byPort: map[int]string{}, pending: map[string][]byte{},
	}
	for k, n := range known {
		a.byPort[n] = k
	}
	return a, nil
}

// get returns the port that key has, or gives it one. explicit, if not 0, is the number that a user wrote. recheck: nothing of ours can
// have it open now, so a port that was kept is tried, and another given where somebody else took it.
func (a *allotter) get(key string, explicit int, recheck bool) (int, error) {
	if n, ok := a.byKey[key]; ok {
		if explicit == n || explicit == 0 && (!recheck || free(n)) {
			return n, nil
		}
		a.drop(key)
	}
	if explicit != 0 {
		// A port that was only chosen gives way: its owner gets another at its next start.
		if other, ok := a.byPort[explicit]; ok && other != key {
			return 0, fmt.Errorf("port %d is in use by %s", explicit, strings.SplitN(other, "/", 2)[0])
		}
		a.take(key, explicit)
		return explicit, nil
	}
	for range a.last - a.first + 1 {
		n := a.next
		if a.next++; a.next > a.last {
			a.next = a.first
		}
		if a.byPort[n] == "" && free(n) {
			a.take(key, n)
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w (%d to %d)", ErrNoPort, a.first, a.last)
}

func (a *allotter) take(key string, n int) {
	a.byKey[key], a.byPort[n] = n, key
	a.pending[key] = []byte(strconv.Itoa(n))
}

func (a *allotter) drop(key string) {
	if n, ok := a.byKey[key]; ok {
		delete(a.byKey, key)
		delete(a.byPort, n)
		a.pending[key] = nil
	}
}

// release gives back all ports of instances that keep does not want.
func (a *allotter) release(keep func(instance string) bool) {
	for key := range a.byKey {
		if instance, _, _ := strings.Cut(key, "/"); !keep(instance) {
			a.drop(key)
		}
	}
}

// save puts what was given out on disk. It comes before a port is told to anybody.
func (a *allotter) save() error {
	err := a.db.put(portsBucket, a.pending)
	if err == nil {
		a.pending = map[string][]byte{}
	}
	return err
}

// free says whether nobody listens on the port of either loopback or of all addresses.
func free(n int) bool {
	for _, host := range []string{"127.0.0.1", "0.0.0.0"} {
		l, err := net.Listen("tcp4", net.JoinHostPort(host, strconv.Itoa(n)))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	// Redirected connections over IPv6 come to the same number. Where there is no IPv6, nobody has it.
	l, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(n)))
	if err != nil {
		return !errors.Is(err, syscall.EADDRINUSE)
	}
	_ = l.Close()
	return true
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
