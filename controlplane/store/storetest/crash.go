package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/outrigger-mesh/outrigger/controlplane/store"
)

// Acked is what a writer was told, by revision: the value that it wrote there.
type Acked map[uint64]string

// Write commits one value after the other, and prints "NUMBER VALUE" to out once it is acknowledged, until a commit fails
// other than by a conflict or in doubt, or ctx ends. name tells writers apart.
func Write(ctx context.Context, st store.Store, name string, out io.Writer) error {
	for i := 0; ; i++ {
		rev, err := st.Head(ctx)
		if err != nil {
			return fmt.Errorf("reading the head: %w", err)
		}
		value := fmt.Sprintf("%s-%d-%d", name, rev.Number, i)
		// Some revisions are bigger than a page, so that a commit is many writes.
		data := []byte(value)
		if i%3 == 0 {
			data = append(append(data, '\n'), make([]byte, 20_000)...)
		}
		next, err := st.Commit(ctx, rev.Number, store.Change{Source: name, Message: value, Put: map[store.Key]store.Item{
			"default/Route/n":         {Data: data},
			key(int(rev.Number % 50)): {Data: []byte(value)},
		}})
		switch {
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrInDoubt):
			continue
		case err != nil:
			return fmt.Errorf("committing: %w", err)
		}
		if _, err := fmt.Fprintf(out, "%d %s\n", next.Number, value); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
	}
}

// Read adds what Write printed; a last line that was cut off does not count.
func (a Acked) Read(r io.Reader) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return nil //nolint:nilerr // the writer was killed: this is the end
		}
		number, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		n, perr := strconv.ParseUint(number, 10, 64)
		if !ok || perr != nil {
			return fmt.Errorf("a writer printed %q", line)
		}
		if was, twice := a[n]; twice {
			return fmt.Errorf("revision %d was acknowledged twice: for %s and for %s", n, was, value)
		}
		a[n] = value
	}
}

// Check returns what the store has lost of what was acknowledged, or nil.
func (a Acked) Check(ctx context.Context, st store.Store) error {
	rev, err := st.Head(ctx)
	if err != nil {
		return fmt.Errorf("reading the head: %w", err)
	}
	infos, err := st.History(ctx, 0)
	if err != nil {
		return fmt.Errorf("reading the history: %w", err)
	}
	messages := make(map[uint64]string, len(infos))
	for i, info := range infos {
		if info.Number != rev.Number-uint64(i) {
			return fmt.Errorf("the history has revision %d at place %d under head %d", info.Number, i, rev.Number)
		}
		messages[info.Number] = info.Message
	}
	for _, n := range slices.Sorted(maps.Keys(a)) {
		if n+uint64(len(infos)) <= rev.Number && uint64(len(infos)) >= store.DefaultKeep {
			continue // rightly no longer kept
		}
		if messages[n] != a[n] {
			return fmt.Errorf("revision %d was acknowledged as %q, and is %q; the head is %d", n, a[n], messages[n], rev.Number)
		}
	}
	blobs, err := st.Load(ctx, rev)
	if err != nil {
		return fmt.Errorf("loading the head: %w", err)
	}
	if got, _, _ := strings.Cut(string(blobs["default/Route/n"]), "\n"); got != rev.Message {
		return fmt.Errorf("revision %d holds %q, want %q", rev.Number, got, rev.Message)
	}
	return nil
}
