package snapshot

// ClientCert says what becomes of x-forwarded-client-cert, the field that tells of a caller's certificate.
type ClientCert struct {
	Mode ClientCertMode
	// Subject, URI and DNS say what of the certificate is told, beside its hash.
	Subject, URI, DNS bool
}

// ClientCertMode is what becomes of what a caller wrote.
type ClientCertMode uint8

// Modes. All but ClientCertAlways remove the field of callers that show no certificate.
const (
	ClientCertSanitize ClientCertMode = iota // it is removed
	ClientCertForward                        // it is kept
	ClientCertAppend                         // the caller's own certificate is appended
	ClientCertSet                            // the caller's own certificate takes its place
	ClientCertAlways                         // it is kept, whoever calls
)
