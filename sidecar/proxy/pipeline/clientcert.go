package pipeline

import (
	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
	"github.com/outrigger-mesh/outrigger/sidecar/snapshot"
)

// clientCert does to x-forwarded-client-cert what the listener says (Envoy: forward_client_cert_details). What a caller
// wrote there is kept only where the caller is known by a certificate, or every caller is trusted.
func (s *Stream) clientCert() {
	h, c := &s.Req.Header, &s.http.ClientCert
	known := s.TLS != nil && s.TLS.Info().Peer != nil
	if !known || c.Mode == snapshot.ClientCertSanitize {
		h.DelKnown(exchange.XForwardedClientCert)
		return
	}
	if c.Mode == snapshot.ClientCertForward {
		return
	}
	own := s.TLS.Forwarded(c.Subject, c.URI, c.DNS)
	if old, has := h.GetKnown(exchange.XForwardedClientCert); has && c.Mode == snapshot.ClientCertAppend {
		own = s.Concat(old, ",", own)
	}
	h.SetKnown(exchange.XForwardedClientCert, own)
}
