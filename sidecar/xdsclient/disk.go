package xdsclient

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	outriggerv1 "github.com/outrigger-mesh/outrigger/api/outrigger/v1"
	"github.com/outrigger-mesh/outrigger/sidecar/compile"
)

// maxFileBytes bounds one file of the last good copy.
const maxFileBytes = 256 << 20

// file is where the copy of a type is: a DeltaDiscoveryResponse that holds all resources of the type.
func (c *Client) file(typ string) string {
	return filepath.Join(c.o.Dir, strings.ToLower(typ[strings.LastIndexByte(typ, '.')+1:])+".pb")
}

// Load puts the last good copy in use. What cannot be read is left out, and reported: the control plane sends it
// anew. Call it once, before Run.
func (c *Client) Load() error {
	c.tick = time.NewTimer(time.Hour)
	defer func() { c.flushing = false }()
	if c.o.Dir == "" {
		return nil
	}
	var errs []error
	for _, t := range compile.Types() {
		u, err := c.loadType(t)
		if err != nil {
			errs = append(errs, err)
		}
		if len(u.Set) == 0 {
			continue
		}
		if t == compile.VirtualHostType {
			for _, r := range u.Set {
				c.finder.keep(r.Name, time.Now())
			}
		}
		for _, e := range c.update(u) {
			errs = append(errs, e)
		}
	}
	return errors.Join(errs...)
}

func (c *Client) loadType(t string) (compile.Update, error) {
	u := compile.Update{TypeURL: t}
	name := c.file(t)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err == nil && info.Size() > maxFileBytes {
		err = errTooLarge
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(name)
	}
	m := &discoveryv3.DeltaDiscoveryResponse{}
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err == nil && m.GetTypeUrl() != t {
		err = fmt.Errorf("holds %q", m.GetTypeUrl())
	}
	if err != nil {
		return u, fmt.Errorf("read the last good copy %s: %w", name, err)
	}
	for _, r := range m.GetResources() {
		u.Set = append(u.Set, compile.Resource{Name: r.GetName(), Version: r.GetVersion(), Body: r.GetResource()})
	}
	return u, nil
}

func (c *Client) saveLater() {
	if c.o.Dir != "" && !c.flushing && c.flush != nil {
		c.flushing = true
		c.flush.Reset(c.o.FlushDelay)
	}
}

// save writes the last good resources. A file is replaced as a whole; whoever reads it meets the old or the new one.
func (c *Client) save() {
	c.flushing = false
	byType := map[string]*discoveryv3.DeltaDiscoveryResponse{}
	for _, t := range compile.Types() {
		byType[t] = &discoveryv3.DeltaDiscoveryResponse{TypeUrl: t}
	}
	for _, s := range c.o.Compiler.Dump() {
		if m := byType[s.TypeURL]; s.Body != nil && !s.Static {
			m.Resources = append(m.Resources, &discoveryv3.Resource{Name: s.Name, Version: s.Version, Resource: s.Body})
		}
	}
	for t, m := range byType {
		if err := replace(c.file(t), m); err != nil {
			c.o.Log.Warn("the last good copy could not be written", "type", t, "error", err)
		}
	}
}

func replace(name string, m proto.Message) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxFileBytes {
		return errTooLarge
	}
	if old, err := os.ReadFile(name); err == nil && string(old) == string(b) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	tmp := name + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// nack says which resources of a response were not taken.
func nack(errs []compile.ResourceError) *status.Status {
	d := &outriggerv1.ResourceErrors{}
	msg := make([]string, 0, len(errs))
	for _, e := range errs {
		msg = append(msg, e.Error())
		d.Errors = append(d.Errors, wireError(e))
	}
	s := &status.Status{Code: int32(codes.InvalidArgument), Message: strings.Join(msg, "; ")}
	if a, err := anypb.New(d); err == nil {
		s.Details = []*anypb.Any{a}
	}
	return s
}

func wireError(e compile.ResourceError) *outriggerv1.ResourceError {
	return &outriggerv1.ResourceError{TypeUrl: e.TypeURL, Name: e.Name, Version: e.Version, Field: e.Field, Reason: e.Reason}
}

// WireErrors turns refused resources into what a telemetry report carries.
func WireErrors(errs []compile.ResourceError) []*outriggerv1.ResourceError {
	var out []*outriggerv1.ResourceError
	for _, e := range errs {
		out = append(out, wireError(e))
	}
	return out
}
