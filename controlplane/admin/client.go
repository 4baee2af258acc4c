package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
)

// Socket is the API's file in the state directory.
const Socket = "api.sock"

// ErrNoControlPlane says that no control plane answers at the state directory.
var ErrNoControlPlane = errors.New("no control plane is running")

// Client speaks with the control plane of a state directory. It is safe for concurrent use.
type Client struct {
	state string
	http  *http.Client
}

// NewClient makes a client for the state directory. It connects with the first call; where nobody accepts there,
// calls return an error that wraps ErrNoControlPlane.
func NewClient(state string) *Client {
	return &Client{state: state, http: &http.Client{Transport: &http.Transport{
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return unixsock.Dial(ctx, filepath.Join(state, Socket))
		},
	}}}
}

// Close releases idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Healthy returns nil where a control plane answers.
func (c *Client) Healthy(ctx context.Context) error {
	return c.call(ctx, "GET", "/healthz", nil, nil, nil)
}

// Apply puts documents in force.
func (c *Client) Apply(ctx context.Context, r ApplyRequest) (ApplyResult, error) {
	var res ApplyResult
	err := c.call(ctx, "POST", "/v1/resources", nil, r, &res)
	return res, err
}

// Diff tells what Apply would do.
func (c *Client) Diff(ctx context.Context, r ApplyRequest) (ApplyResult, error) {
	var res ApplyResult
	err := c.call(ctx, "POST", "/v1/diff", nil, r, &res)
	return res, err
}

// Resources lists what matches k; with a Name, nothing to match is a problem of status 404.
func (c *Client) Resources(ctx context.Context, k Key) ([]Resource, error) {
	p := "/v1/resources"
	if k.Kind != "" {
		p += "/" + url.PathEscape(k.Kind)
		if k.Name != "" {
			p += "/" + url.PathEscape(k.Name)
		}
	}
	var res []Resource
	err := c.call(ctx, "GET", p, query("tenant", k.Tenant, "version", k.Version), nil, &res)
	return res, err
}

// Delete removes resources.
func (c *Client) Delete(ctx context.Context, k Key, dryRun bool) (ApplyResult, error) {
	var res ApplyResult
	err := c.call(ctx, "DELETE", "/v1/resources/"+url.PathEscape(k.Kind)+"/"+url.PathEscape(k.Name),
		query("tenant", k.Tenant, "version", k.Version, "dryRun", flag(dryRun)), nil, &res)
	return res, err
}

// Processes lists the host's instances.
func (c *Client) Processes(ctx context.Context) ([]Process, error) {
	var res []Process
	err := c.call(ctx, "GET", "/v1/processes", nil, nil, &res)
	return res, err
}

// Operate acts on the instances that name means, and returns their ids.
func (c *Client) Operate(ctx context.Context, tenant, name string, op Op) ([]string, error) {
	var res struct {
		Instances []string `json:"instances"`
	}
	err := c.call(ctx, "POST", "/v1/processes/"+url.PathEscape(name)+"/"+url.PathEscape(string(op)), query("tenant", tenant), nil, &res)
	return res.Instances, err
}

// Interceptions are the rules that redirect the connections of the instances that name means; anew puts them once more into
// the kernel.
func (c *Client) Interceptions(ctx context.Context, tenant, name string, anew bool) ([]Interception, error) {
	method := "GET"
	if anew {
		method = "POST"
	}
	var out []Interception
	err := c.call(ctx, method, "/v1/intercept/"+url.PathEscape(name), query("tenant", tenant), nil, &out)
	return out, err
}

// Upgrade replaces sidecars one by one and calls tell for each that is done. With an error the old sidecar of the
// instance that it names stays, and the rest were not touched.
func (c *Client) Upgrade(ctx context.Context, r UpgradeRequest, tell func(Upgraded)) error {
	resp, err := c.do(ctx, "POST", "/v1/upgrade", nil, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var last UpgradeLine
	err = lines(ctx, resp.Body, func(l UpgradeLine) bool {
		if last = l; l.Upgraded != nil {
			tell(*l.Upgraded)
		}
		return true
	})
	switch {
	case err != nil:
		return err
	case last.Error != "":
		return errors.New(last.Error)
	case !last.Done:
		return errors.Join(errors.New("the upgrade was cut off; events tell how far it came"), ctx.Err())
	}
	return nil
}

// Logs copies output to w until it ends or, where q says Follow, ctx does.
func (c *Client) Logs(ctx context.Context, q LogQuery, w io.Writer) error {
	p := "/v1/logs"
	if q.Name != "" {
		p += "/" + url.PathEscape(q.Name)
	}
	v := query("tenant", q.Tenant, "follow", flag(q.Follow), "sidecar", flag(q.Sidecar))
	if q.Tail >= 0 {
		v.Set("tail", strconv.Itoa(q.Tail))
	}
	resp, err := c.do(ctx, "GET", p, v, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read logs: %w", err)
	}
	return nil
}

// Events calls yield with each event after number since of run epoch until yield returns false, the events are at
// their end or, with follow, ctx ends.
func (c *Client) Events(ctx context.Context, epoch string, since uint64, follow bool, yield func(Event) bool) error {
	resp, err := c.do(ctx, "GET", "/v1/events", query("epoch", epoch, "since", strconv.FormatUint(since, 10), "follow", flag(follow)), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return lines(ctx, resp.Body, yield)
}

// Status tells how the host is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var res Status
	err := c.call(ctx, "GET", "/v1/status", nil, nil, &res)
	return res, err
}

// WaitReady tells how the host is once it is ready or cannot become so, at the latest after d.
func (c *Client) WaitReady(ctx context.Context, d time.Duration) (Status, error) {
	var res Status
	err := c.call(ctx, "GET", "/v1/status", query("wait", d.String()), nil, &res)
	return res, err
}

// History lists the newest revisions first.
func (c *Client) History(ctx context.Context, limit int) ([]Revision, error) {
	var res []Revision
	err := c.call(ctx, "GET", "/v1/history", query("limit", strconv.Itoa(limit)), nil, &res)
	return res, err
}

// Bootstrap returns a foreign client's bootstrap.
func (c *Client) Bootstrap(ctx context.Context, r BootstrapRequest) ([]byte, error) {
	resp, err := c.do(ctx, "GET", "/v1/bootstrap/"+url.PathEscape(r.Kind)+"/"+url.PathEscape(r.Service), query("tenant", r.Tenant, "listen", r.Listen), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// Down stops the mesh and calls tell with each step. It returns when all has stopped; the control plane ends then.
func (c *Client) Down(ctx context.Context, hurry bool, tell func(string)) error {
	resp, err := c.do(ctx, "POST", "/v1/down", query("hurry", flag(hurry)), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var last DownLine
	err = lines(ctx, resp.Body, func(l DownLine) bool {
		if last = l; !l.Done {
			tell(l.Text)
		}
		return true
	})
	switch {
	case err != nil:
		return err
	case last.Error != "":
		return errors.New(last.Error)
	case !last.Done:
		return errors.New("the control plane ended before it had stopped everything")
	}
	return nil
}

func lines[T any](ctx context.Context, body io.Reader, yield func(T) bool) error {
	d := json.NewDecoder(bufio.NewReader(body))
	for {
		var v T
		if err := d.Decode(&v); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read the control plane's answer: %w", err)
		}
		if !yield(v) {
			return nil
		}
	}
}

func (c *Client) call(ctx context.Context, method, path string, q url.Values, body, into any) error {
	resp, err := c.do(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read the control plane's answer: %w", err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, q url.Values, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		r = bytes.NewReader(b)
	}
	u := "http://outrigger" + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// A reset before any answer is a process that was being killed as it was asked.
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ECONNRESET) {
			return nil, fmt.Errorf("%w at %s", ErrNoControlPlane, c.state)
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("speak with the control plane: %w", err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	p := &Problem{}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") || json.Unmarshal(text, p) != nil {
		p = &Problem{Type: "failed", Title: resp.Status, Status: resp.StatusCode, Detail: strings.TrimSpace(string(text))}
	}
	return nil, p
}

func query(kv ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] != "" {
			v.Set(kv[i], kv[i+1])
		}
	}
	return v
}

func flag(b bool) string {
	if b {
		return "true"
	}
	return ""
}
