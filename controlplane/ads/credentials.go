package ads

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/outrigger-mesh/outrigger/internal/unixsock"
)

// peerCredentials are grpc transport credentials that ask the kernel who opened the connection. They encrypt nothing: a
// Unix socket needs it not.
type peerCredentials struct{}

type peerInfo struct {
	credentials.CommonAuthInfo
	peer unixsock.Credentials
}

func (peerInfo) AuthType() string { return "unix-peer" }

func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.New("not a Unix socket")
	}
	p, err := unixsock.Peer(u)
	if err != nil {
		return nil, nil, fmt.Errorf("asking who connects: %w", err)
	}
	return c, peerInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, p}, nil
}

func (peerCredentials) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, peerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}
func (peerCredentials) Clone() credentials.TransportCredentials { return peerCredentials{} }
func (peerCredentials) OverrideServerName(string) error         { return nil }

// admit asks whether the caller may be that node.
func (s *Server) admit(ctx context.Context, node string) error {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(peerInfo)
	if !ok {
		return status.Error(codes.Unauthenticated, "the caller is not known")
	}
	if node == "" {
		return status.Error(codes.InvalidArgument, "the first request names no node")
	}
	if err := s.opts.Authorize(info.peer, node); err != nil {
		s.opts.Log.Warn("a node was refused", "node", node, "pid", info.peer.PID, "uid", info.peer.UID, "error", err)
		return status.Errorf(codes.PermissionDenied, "node %q: %v", node, err)
	}
	return nil
}

// Kinds of foreign clients.
const (
	KindEnvoy = "envoy"
	KindGRPC  = "grpc"
)

// Foreign is what a foreign client's node id says.
type Foreign struct {
	// Kind is KindEnvoy or KindGRPC.
	Kind            string
	Tenant, Service string
}

// SignForeign makes the node id of a foreign client: KIND~TENANT~SERVICE~SIGNATURE, the signature the hex HMAC-SHA256 with secret
// over what precedes its "~".
func SignForeign(secret []byte, f Foreign) string {
	text := f.Kind + "~" + f.Tenant + "~" + f.Service
	return text + "~" + hex.EncodeToString(sign(secret, text))
}

// ErrNotForeign says that a node id is not of a foreign client's form.
var ErrNotForeign = errors.New("not the id of a foreign client")

// VerifyForeign reads a foreign client's node id. The error is ErrNotForeign where the id is of another form, and another
// where its signature is not ours.
func VerifyForeign(secret []byte, id string) (Foreign, error) {
	p := strings.Split(id, "~")
	if len(p) != 4 || p[0] != KindEnvoy && p[0] != KindGRPC {
		return Foreign{}, ErrNotForeign
	}
	sum, err := hex.DecodeString(p[3])
	if err != nil || !hmac.Equal(sum, sign(secret, strings.Join(p[:3], "~"))) {
		return Foreign{}, errors.New("the signature is not of this control plane: write the bootstrap again")
	}
	return Foreign{Kind: p[0], Tenant: p[1], Service: p[2]}, nil
}

func sign(secret []byte, text string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(text))
	return h.Sum(nil)
}
