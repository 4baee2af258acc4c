package ads

import (
	"context"
	"errors"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callbacks is what go-control-plane tells of its streams. For each stream it calls from one goroutine.
type callbacks struct{ s *Server }

func (c *callbacks) OnStreamOpen(ctx context.Context, id int64, _ string) error {
	c.s.open(ctx, streamKey{id: id})
	return nil
}

func (c *callbacks) OnDeltaStreamOpen(ctx context.Context, id int64, _ string) error {
	c.s.open(ctx, streamKey{delta: true, id: id})
	return nil
}

func (c *callbacks) OnStreamClosed(id int64, _ *corev3.Node) { c.s.close(streamKey{id: id}) }

func (c *callbacks) OnDeltaStreamClosed(id int64, _ *corev3.Node) {
	c.s.close(streamKey{delta: true, id: id})
}

func (c *callbacks) OnStreamRequest(id int64, r *discoveryv3.DiscoveryRequest) error {
	return c.s.request(streamKey{id: id}, r, r.GetNode(), r.GetTypeUrl(), r.GetResponseNonce(), r.GetErrorDetail())
}

func (c *callbacks) OnStreamDeltaRequest(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
	return c.s.request(streamKey{delta: true, id: id}, r, r.GetNode(), r.GetTypeUrl(), r.GetResponseNonce(), r.GetErrorDetail())
}

func (c *callbacks) OnStreamResponse(_ context.Context, id int64, _ *discoveryv3.DiscoveryRequest, r *discoveryv3.DiscoveryResponse) {
	c.s.sent(streamKey{id: id}, r.GetTypeUrl(), r.GetNonce())
}

func (c *callbacks) OnStreamDeltaResponse(id int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
	c.s.sent(streamKey{delta: true, id: id}, r.GetTypeUrl(), r.GetNonce())
}

func (s *Server) open(ctx context.Context, k streamKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[k] = &stream{key: k, ctx: ctx, watches: map[string]*watch{}, unacked: map[string]*response{}}
}

func (s *Server) close(k streamKey) {
	s.mu.Lock()
	st := s.streams[k]
	delete(s.streams, k)
	delete(s.asking, st.asking)
	s.mu.Unlock()
	if st.node != nil {
		st.node.detach(st)
	}
}

// request is called for every request, before the cache is asked.
func (s *Server) request(k streamKey, req any, n *corev3.Node, typeURL, nonce string, detail *rpcstatus.Status) error {
	s.mu.Lock()
	st := s.streams[k]
	s.mu.Unlock()
	if st.node == nil {
		if err := s.admit(st.ctx, n.GetId()); err != nil {
			return err
		}
		s.mu.Lock()
		known := s.nodes[n.GetId()]
		if known == nil {
			known = newNode(s, n.GetId())
			s.nodes[n.GetId()] = known
		}
		render := s.render
		s.mu.Unlock()
		st.node = known
		known.attach(st, n, render)
	} else if n != nil && n.GetId() != "" && n.GetId() != st.node.id {
		return status.Errorf(codes.InvalidArgument, "the stream is of node %q", st.node.id)
	}
	st.node.answered(st, typeURL, nonce, detail)

	s.mu.Lock()
	delete(s.asking, st.asking)
	st.asking = req
	s.asking[req] = st
	s.mu.Unlock()
	return nil
}

func (s *Server) sent(k streamKey, typeURL, nonce string) {
	s.mu.Lock()
	st := s.streams[k]
	s.mu.Unlock()
	if st != nil && st.node != nil {
		st.node.sent(st, typeURL, nonce)
	}
}

// cache is where go-control-plane asks. It finds the stream that a request came by, and leaves the rest to its node.
type cache struct{ s *Server }

var _ cachev3.ConfigWatcher = (*cache)(nil)

func (c *cache) take(req any) (*stream, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	st := c.s.asking[req]
	if st == nil {
		return nil, errors.New("a request without a stream")
	}
	delete(c.s.asking, req)
	st.asking = nil
	return st, nil
}

// CreateDeltaWatch implements cachev3.ConfigWatcher.
func (c *cache) CreateDeltaWatch(r *cachev3.DeltaRequest, sub cachev3.Subscription, ch chan cachev3.DeltaResponse) (func(), error) {
	st, err := c.take(r)
	if err != nil {
		return nil, err
	}
	w := &watch{
		typeURL: r.GetTypeUrl(), open: true, sub: sub, state: sub.ReturnedResources(), initial: r.GetInitialResourceVersions(),
		resend: map[string]bool{},
		send: func(resp *response) {
			ch <- &cachev3.DeltaPassthroughResponse{
				DeltaRequest: r, NextVersionMap: resp.next,
				DeltaDiscoveryResponse: &discoveryv3.DeltaDiscoveryResponse{
					TypeUrl: r.GetTypeUrl(), SystemVersionInfo: resp.version, Resources: resp.deltaResources(), RemovedResources: resp.removed,
				},
			}
		},
	}
	for _, name := range r.GetResourceNamesSubscribe() {
		if name != wildcard {
			w.resend[name] = true
		}
	}
	return st.node.watch(st, w), nil
}

// CreateWatch implements cachev3.ConfigWatcher.
func (c *cache) CreateWatch(r *cachev3.Request, sub cachev3.Subscription, ch chan cachev3.Response) (func(), error) {
	st, err := c.take(r)
	if err != nil {
		return nil, err
	}
	w := &watch{
		typeURL: r.GetTypeUrl(), open: true, sub: sub, state: sub.ReturnedResources(), sotw: true, resend: map[string]bool{},
		send: func(resp *response) {
			ch <- &cachev3.PassthroughResponse{
				Request: r, ReturnedResources: resp.next,
				DiscoveryResponse: &discoveryv3.DiscoveryResponse{
					TypeUrl: r.GetTypeUrl(), VersionInfo: resp.version, Resources: resp.anys(),
				},
			}
		},
	}
	return st.node.watch(st, w), nil
}

const wildcard = "*"
