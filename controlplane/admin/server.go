package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// maxBodyBytes bounds a request's body. A document of that size holds tens of thousands of resources.
const maxBodyBytes = 32 << 20

// Key names resources. An empty field matches all where a list is asked for.
type Key struct{ Tenant, Kind, Name, Version string }

// LogQuery says which output is asked for.
type LogQuery struct {
	// Tenant and Name choose instances, as in ProcessQuery; Name "" chooses all.
	Tenant, Name string
	// Follow goes on until the context ends.
	Follow bool
	// Tail is how many last lines each instance begins with; negative for all that is kept.
	Tail int
	// Sidecar asks for the sidecar's log in place of the process's output.
	Sidecar bool
}

// Op is what a user does to a process.
type Op string

// The operations. Kill is a fault (the process is restarted as its policy says); Stop is not.
const (
	Start   Op = "start"
	Stop    Op = "stop"
	Restart Op = "restart"
	Kill    Op = "kill"
)

// Backend does what the API offers. All methods are safe for concurrent use and obey ctx. An error that is a
// *Problem is told as it is, any other as a failure of the control plane.
type Backend interface {
	// Apply and Diff: all violations at once, and on any of them nothing changes.
	Apply(ctx context.Context, r ApplyRequest) (ApplyResult, error)
	// Resources lists what matches k, ordered by kind, tenant, name, version.
	Resources(ctx context.Context, k Key) ([]Resource, error)
	// Delete removes what matches k, whose Kind and Name are given.
	Delete(ctx context.Context, k Key, dryRun bool) (ApplyResult, error)
	Processes(ctx context.Context) ([]Process, error)
	// Operate acts on the instances that name means: a service, service@version, or an instance's id. It
	// returns the instances that it acted on, once the operation is done.
	Operate(ctx context.Context, tenant, name string, op Op) ([]string, error)
	// Interceptions are the rules that redirect the connections of the instances that name means. anew puts those once more
	// into the kernel whose instances run.
	Interceptions(ctx context.Context, tenant, name string, anew bool) ([]Interception, error)
	// Upgrade replaces sidecars one by one, and calls tell for each that is done.
	Upgrade(ctx context.Context, r UpgradeRequest, tell func(Upgraded)) error
	// Logs writes output to w. Where more than one instance is meant, each line begins with its id.
	Logs(ctx context.Context, q LogQuery, w io.Writer) error
	// Events calls yield with every event after number since of run epoch, and then with each new one until ctx
	// ends or yield returns false. An epoch of another run, or "", begins at the first event that is kept.
	Events(ctx context.Context, epoch string, since uint64, follow bool, yield func(Event) bool) error
	Status(ctx context.Context) (Status, error)
	// WaitReady returns the status once it is ready, cannot become so, or ctx ends.
	WaitReady(ctx context.Context) (Status, error)
	History(ctx context.Context, limit int) ([]Revision, error)
	// Bootstrap returns the bootstrap of a foreign client.
	Bootstrap(ctx context.Context, r BootstrapRequest) ([]byte, error)
	// Down stops the mesh in reverse order and tells each step. The control plane ends after it.
	Down(ctx context.Context, hurry bool, tell func(string)) error
}

// Server answers the REST API. Make one with NewServer.
type Server struct {
	b    Backend
	log  *slog.Logger
	http *http.Server
}

// NewServer makes a server over b.
func NewServer(b Backend, log *slog.Logger) *Server {
	s := &Server{b: b, log: log}
	s.http = &http.Server{
		Handler:           s.recover(s.routes()),
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return s
}

// Serve answers on l until ctx ends; requests under way then have a second to finish. l admits only those who
// may speak: the Unix socket's listener checks peer credentials.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	// Streams end when the server does: their requests' contexts are children of this one.
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.http.BaseContext = func(net.Listener) context.Context { return base }
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		grace, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		cancel()
		if err := s.http.Shutdown(grace); err != nil {
			_ = s.http.Close()
		}
	}()
	err := s.http.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		<-done
		return ctx.Err()
	}
	return fmt.Errorf("serve the API: %w", err)
}

func (s *Server) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, 200, map[string]string{"status": "ok"}) })
	m.HandleFunc("GET /v1/resources", s.list)
	m.HandleFunc("POST /v1/resources", s.apply(false))
	m.HandleFunc("GET /v1/resources/{kind}", s.list)
	m.HandleFunc("GET /v1/resources/{kind}/{name}", s.get)
	m.HandleFunc("DELETE /v1/resources/{kind}/{name}", s.delete)
	m.HandleFunc("POST /v1/diff", s.apply(true))
	m.HandleFunc("GET /v1/processes", s.processes)
	m.HandleFunc("POST /v1/processes/{name}/{op}", s.operate)
	m.HandleFunc("GET /v1/intercept/{name}", s.intercept(false))
	m.HandleFunc("POST /v1/intercept/{name}", s.intercept(true))
	m.HandleFunc("POST /v1/upgrade", s.upgrade)
	m.HandleFunc("GET /v1/logs", s.logs)
	m.HandleFunc("GET /v1/logs/{name}", s.logs)
	m.HandleFunc("GET /v1/events", s.events)
	m.HandleFunc("GET /v1/status", s.status)
	m.HandleFunc("GET /v1/history", s.history)
	m.HandleFunc("GET /v1/bootstrap/{kind}/{service}", s.bootstrap)
	m.HandleFunc("POST /v1/down", s.down)
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, NotFound(r.Method+" "+r.URL.Path, "the API begins with /v1"))
	})
	return m
}

// recover keeps one bad request from ending the control plane, and says what happened.
func (s *Server) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { //nolint:errorlint // a sentinel that net/http compares itself
				panic(v)
			}
			s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			s.fail(w, r, fmt.Errorf("internal error: %v", v))
		}()
		next.ServeHTTP(w, r)
	})
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	got, err := s.b.Resources(r.Context(), Key{Tenant: q.Get("tenant"), Kind: r.PathValue("kind"), Name: q.Get("name"), Version: q.Get("version")})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if got == nil {
		got = []Resource{}
	}
	writeJSON(w, 200, got)
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	k := Key{Tenant: q.Get("tenant"), Kind: r.PathValue("kind"), Name: r.PathValue("name"), Version: q.Get("version")}
	got, err := s.b.Resources(r.Context(), k)
	if err == nil && len(got) == 0 {
		err = NotFound(k.Kind+"/"+k.Name, "")
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	// Several versions of a service share a name, so the answer is always a list.
	writeJSON(w, 200, got)
}

func (s *Server) apply(diff bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req ApplyRequest
		if err := readJSON(w, r, &req); err != nil {
			s.fail(w, r, err)
			return
		}
		if len(req.Source) > 256 {
			s.fail(w, r, BadRequest("source is longer than 256 bytes"))
			return
		}
		if len(req.Documents) == 0 && !req.Prune {
			s.fail(w, r, BadRequest("no documents"))
			return
		}
		req.DryRun = req.DryRun || diff
		res, err := s.b.Apply(r.Context(), req)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		writeJSON(w, 200, res)
	}
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	dry, err := boolean(q.Get("dryRun"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	res, err := s.b.Delete(r.Context(), Key{Tenant: q.Get("tenant"), Kind: r.PathValue("kind"), Name: r.PathValue("name"), Version: q.Get("version")}, dry)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, 200, res)
}

func (s *Server) processes(w http.ResponseWriter, r *http.Request) {
	ps, err := s.b.Processes(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if ps == nil {
		ps = []Process{}
	}
	writeJSON(w, 200, ps)
}

func (s *Server) operate(w http.ResponseWriter, r *http.Request) {
	op := Op(r.PathValue("op"))
	switch op {
	case Start, Stop, Restart, Kill:
	default:
		s.fail(w, r, NotFound("operation "+string(op), "one of start, stop, restart, kill"))
		return
	}
	ids, err := s.b.Operate(r.Context(), r.URL.Query().Get("tenant"), r.PathValue("name"), op)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, 200, map[string][]string{"instances": ids})
}

func (s *Server) intercept(anew bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		got, err := s.b.Interceptions(r.Context(), r.URL.Query().Get("tenant"), r.PathValue("name"), anew)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		if got == nil {
			got = []Interception{}
		}
		writeJSON(w, 200, got)
	}
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	var req UpgradeRequest
	if err := readJSON(w, r, &req); err != nil {
		s.fail(w, r, err)
		return
	}
	out := &streamWriter{w: w, contentType: "application/x-ndjson"}
	tell := func(l UpgradeLine) {
		if line, err := json.Marshal(l); err == nil {
			_, _ = out.Write(append(line, '\n'))
		}
	}
	err := s.b.Upgrade(r.Context(), req, func(u Upgraded) { tell(UpgradeLine{Upgraded: &u}) })
	switch {
	case err != nil && !out.begun:
		s.fail(w, r, err)
	case err != nil:
		tell(UpgradeLine{Done: true, Error: err.Error()})
	default:
		tell(UpgradeLine{Done: true})
	}
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	follow, err := boolean(q.Get("follow"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	sidecar, err := boolean(q.Get("sidecar"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	tail := -1
	if t := q.Get("tail"); t != "" {
		if tail, err = strconv.Atoi(t); err != nil {
			s.fail(w, r, BadRequest("tail=%q is not a number", t))
			return
		}
	}
	out := &streamWriter{w: w, contentType: "text/plain; charset=utf-8"}
	err = s.b.Logs(r.Context(), LogQuery{Tenant: q.Get("tenant"), Name: r.PathValue("name"), Follow: follow, Tail: tail, Sidecar: sidecar}, out)
	switch {
	case err != nil && !out.begun:
		s.fail(w, r, err)
	case err != nil && r.Context().Err() == nil:
		s.log.Warn("logs ended early", "error", err)
		panic(http.ErrAbortHandler) // the only way left to say that the answer is not whole
	default:
		out.begin()
	}
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	follow, err := boolean(q.Get("follow"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	epoch, since := q.Get("epoch"), q.Get("since")
	sse := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	if id := r.Header.Get("Last-Event-ID"); sse && id != "" {
		epoch, since, _ = strings.Cut(id, "/")
	}
	var from uint64
	if since != "" {
		if from, err = strconv.ParseUint(since, 10, 64); err != nil {
			s.fail(w, r, BadRequest("since=%q is not a number", since))
			return
		}
	}
	out := &streamWriter{w: w, contentType: "application/x-ndjson"}
	if sse {
		out.contentType, follow = "text/event-stream", true
	}
	if follow {
		out.begin()
	}
	err = s.b.Events(r.Context(), epoch, from, follow, func(e Event) bool {
		line, err := json.Marshal(e)
		if err != nil {
			return false
		}
		if sse {
			line = fmt.Appendf(nil, "id: %s/%d\nevent: %s\ndata: %s\n\n", e.Epoch, e.Number, e.Kind, line)
		} else {
			line = append(line, '\n')
		}
		_, err = out.Write(line)
		return err == nil
	})
	if err != nil && !out.begun {
		s.fail(w, r, err)
		return
	}
	out.begin()
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	ctx, get := r.Context(), s.b.Status
	if t := r.URL.Query().Get("wait"); t != "" {
		d, err := time.ParseDuration(t)
		if err != nil || d < 0 {
			s.fail(w, r, BadRequest("wait=%q is not a duration such as 60s", t))
			return
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
		get = s.b.WaitReady
	}
	st, err := get(ctx)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, 200, st)
}

func (s *Server) history(w http.ResponseWriter, r *http.Request) {
	limit := 50
	if t := r.URL.Query().Get("limit"); t != "" {
		var err error
		if limit, err = strconv.Atoi(t); err != nil || limit < 1 {
			s.fail(w, r, BadRequest("limit=%q is not a number above zero", t))
			return
		}
	}
	h, err := s.b.History(r.Context(), limit)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if h == nil {
		h = []Revision{}
	}
	writeJSON(w, 200, h)
}

func (s *Server) bootstrap(w http.ResponseWriter, r *http.Request) {
	q := BootstrapRequest{Kind: r.PathValue("kind"), Tenant: r.URL.Query().Get("tenant"), Service: r.PathValue("service"), Listen: r.URL.Query().Get("listen")}
	if q.Listen == "" {
		q.Listen = DefaultEnvoyListen
	}
	body, err := s.b.Bootstrap(r.Context(), q)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	t := "application/json"
	if r.PathValue("kind") == "envoy" {
		t = "application/yaml"
	}
	w.Header().Set("Content-Type", t)
	_, _ = w.Write(body)
}

func (s *Server) down(w http.ResponseWriter, r *http.Request) {
	hurry, err := boolean(r.URL.Query().Get("hurry"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	out := &streamWriter{w: w, contentType: "application/x-ndjson"}
	out.begin()
	tell := func(l DownLine) {
		if line, err := json.Marshal(l); err == nil {
			_, _ = out.Write(append(line, '\n'))
		}
	}
	// A client that leaves does not stop the stopping.
	err = s.b.Down(context.WithoutCancel(r.Context()), hurry, func(t string) { tell(DownLine{Text: t}) })
	last := DownLine{Text: "all stopped", Done: true}
	if err != nil {
		last = DownLine{Text: "not all stopped", Done: true, Error: err.Error()}
	}
	tell(last)
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody listens
	}
	p := problemOf(err)
	if p.Status >= 500 {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	body, merr := json.Marshal(p)
	if merr != nil {
		body = []byte(`{"type":"failed","title":"failed","status":500}`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n'))
}

func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	if t := r.Header.Get("Content-Type"); t != "" {
		if mt, _, err := mime.ParseMediaType(t); err != nil || mt != "application/json" {
			return &Problem{
				Type: "unsupported", Title: "unsupported media type", Status: http.StatusUnsupportedMediaType,
				Detail: "the body is " + t + ", not application/json",
			}
		}
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return BadRequest("the body is not the JSON expected here: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return BadRequest("more than one JSON value in the body")
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

func boolean(s string) (bool, error) {
	if s == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, BadRequest("%q is neither true nor false", s)
	}
	return b, nil
}

// streamWriter flushes each write, and sends the head with the first one, so that an error before it can
// still be told as such.
type streamWriter struct {
	w           http.ResponseWriter
	contentType string
	begun       bool
}

func (s *streamWriter) begin() {
	if s.begun {
		return
	}
	s.begun = true
	s.w.Header().Set("Content-Type", s.contentType)
	s.w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(s.w).Flush()
}

func (s *streamWriter) Write(p []byte) (int, error) {
	s.begin()
	n, err := s.w.Write(p)
	if err == nil {
		err = http.NewResponseController(s.w).Flush()
	}
	return n, err
}
