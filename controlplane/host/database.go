package host

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
)

// database is host.db: what this host must know after a restart. It is safe for concurrent use; each write is on disk
// when it returns.
type database struct{ b *bbolt.DB }

var (
	portsBucket   = []byte("ports")    // INSTANCE/KIND/NAME → number
	stoppedBucket = []byte("stopped")  // INSTANCE → when, RFC 3339
	healthBucket  = []byte("health")   // INSTANCE → lastHealth
	metaBucket    = []byte("meta")     // environ → JSON
	sidecarBucket = []byte("sidecars") // INSTANCE, or allInstances → path of the sidecar's program
)

// lastHealth is what was last known of a process.
type lastHealth struct {
	PID     int  `json:"pid"`
	Healthy bool `json:"healthy"`
}

func openDatabase(path string) (*database, error) {
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open the host's state %s: %w", path, err)
	}
	err = b.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{portsBucket, stoppedBucket, healthBucket, metaBucket, sidecarBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("open the host's state %s: %w", path, err)
	}
	return &database{b}, nil
}

func (d *database) close() error {
	if err := d.b.Close(); err != nil {
		return fmt.Errorf("close the host's state: %w", err)
	}
	return nil
}

// put writes or, where the value is nil, removes.
func (d *database) put(bucket []byte, values map[string][]byte) error {
	if len(values) == 0 {
		return nil
	}
	err := d.b.Update(func(tx *bbolt.Tx) error {
		for k, v := range values {
			var err error
			if v == nil {
				err = tx.Bucket(bucket).Delete([]byte(k))
			} else {
				err = tx.Bucket(bucket).Put([]byte(k), v)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write the host's state: %w", err)
	}
	return nil
}

func (d *database) each(bucket []byte, f func(key string, value []byte) error) error {
	err := d.b.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error { return f(string(k), v) })
	})
	if err != nil {
		return fmt.Errorf("read the host's state: %w", err)
	}
	return nil
}

func (d *database) stoppedSet() (map[string]bool, error) {
	out := map[string]bool{}
	err := d.each(stoppedBucket, func(k string, _ []byte) error { out[k] = true; return nil })
	return out, err
}

func (d *database) programs() (map[string]string, error) {
	out := map[string]string{}
	err := d.each(sidecarBucket, func(k string, v []byte) error { out[k] = string(v); return nil })
	return out, err
}

func (d *database) healths() (map[string]lastHealth, error) {
	out := map[string]lastHealth{}
	err := d.each(healthBucket, func(k string, v []byte) error {
		var l lastHealth
		if err := json.Unmarshal(v, &l); err != nil {
			return fmt.Errorf("health of %s: %w", k, err)
		}
		out[k] = l
		return nil
	})
	return out, err
}

func (d *database) portNumbers() (map[string]int, error) {
	out := map[string]int{}
	err := d.each(portsBucket, func(k string, v []byte) error {
		n, err := strconv.Atoi(string(v))
		if err != nil {
			return fmt.Errorf("port %s: %w", k, err)
		}
		out[k] = n
		return nil
	})
	return out, err
}

func (d *database) environ() (env []string, err error) {
	err = d.b.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(metaBucket).Get([]byte("environ")); v != nil {
			return json.Unmarshal(v, &env)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the host's state: %w", err)
	}
	return env, nil
}

func (d *database) setEnviron(env []string) error {
	v, err := json.Marshal(env)
	if err != nil {
		return fmt.Errorf("write the host's state: %w", err)
	}
	return d.put(metaBucket, map[string][]byte{"environ": v})
}
