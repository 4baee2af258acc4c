package http1

import (
	"strconv"

	"github.com/outrigger-mesh/outrigger/sidecar/exchange"
)

// AppendFields appends the field lines of h. Lines that were parsed and not changed are copied as they came,
// whole runs at once; skip drops one known field.
func AppendFields(dst []byte, h *exchange.Header, skip exchange.Known) []byte {
	runS, runE := uint32(0), uint32(0)
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.Flags&exchange.Dropped != 0 || skip != exchange.Other && f.Known == skip {
			continue
		}
		if f.End != 0 {
			if f.Start == runE {
				runE = f.End
				continue
			}
			dst = append(dst, h.Raw[runS:runE]...)
			runS, runE = f.Start, f.End
			continue
		}
		dst = append(dst, h.Raw[runS:runE]...)
		runS, runE = 0, 0
		dst = append(dst, f.Name...)
		dst = append(dst, ": "...)
		dst = append(dst, f.Value...)
		dst = append(dst, '\r', '\n')
	}
	return append(dst, h.Raw[runS:runE]...)
}

// How tells how a message is framed on the wire.
type How struct {
	// Length is written as Content-Length where the fields do not have one; -1 for none.
	Length  int64
	Chunked bool
	Close   bool
	// KeepAlive says so to an HTTP/1.0 client.
	KeepAlive bool
	Upgrade   string
	// Trailers announces that trailers are understood (TE: trailers).
	Trailers bool
}

func (w *How) append(dst []byte, h *exchange.Header) []byte {
	switch {
	case w.Chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case w.Length >= 0 && !h.Has(exchange.ContentLength):
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, w.Length, 10)
		dst = append(dst, '\r', '\n')
	}
	switch {
	case w.Upgrade != "":
		dst = append(dst, "Connection: upgrade\r\nUpgrade: "...)
		dst = append(dst, w.Upgrade...)
		dst = append(dst, '\r', '\n')
	case w.Close:
		dst = append(dst, "Connection: close\r\n"...)
	case w.KeepAlive:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	return append(dst, '\r', '\n')
}

// AppendRequest appends a request's head.
func AppendRequest(dst []byte, h *exchange.Head, w *How) []byte {
	dst = append(dst, h.Method...)
	dst = append(dst, ' ')
	if h.Method == "CONNECT" && w.Upgrade == "" {
		dst = append(dst, h.Authority...)
	} else {
		dst = append(dst, h.Path...)
	}
	dst = append(dst, " HTTP/1.1\r\n"...)
	if !h.Header.Has(exchange.Host) {
		dst = append(dst, "Host: "...)
		dst = append(dst, h.Authority...)
		dst = append(dst, '\r', '\n')
	}
	skip := exchange.Other
	if w.Chunked {
		skip = exchange.ContentLength
	}
	dst = AppendFields(dst, &h.Header, skip)
	if w.Trailers {
		dst = append(dst, "TE: trailers\r\n"...)
	}
	return w.append(dst, &h.Header)
}

// AppendResponse appends a response's head.
func AppendResponse(dst []byte, h *exchange.Head, w *How) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, byte('0'+h.Status/100), byte('0'+h.Status/10%10), byte('0'+h.Status%10), ' ')
	if h.Reason != "" {
		dst = append(dst, h.Reason...)
	} else {
		dst = append(dst, StatusText(h.Status)...)
	}
	dst = append(dst, '\r', '\n')
	skip := exchange.Other
	if w.Chunked {
		skip = exchange.ContentLength
	}
	dst = AppendFields(dst, &h.Header, skip)
	return w.append(dst, &h.Header)
}

// AppendChunk appends one chunk; data must not be empty.
func AppendChunk(dst, data []byte) []byte {
	dst = AppendChunkHead(dst, len(data))
	dst = append(dst, data...)
	return append(dst, '\r', '\n')
}

// AppendChunkHead appends the line before n bytes of data.
func AppendChunkHead(dst []byte, n int) []byte {
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, '\r', '\n')
}

// AppendLastChunk appends the end of a chunked body, with trailers.
func AppendLastChunk(dst []byte, trailers *exchange.Header) []byte {
	dst = append(dst, "0\r\n"...)
	if trailers != nil {
		dst = AppendFields(dst, trailers, exchange.Other)
	}
	return append(dst, '\r', '\n')
}

// StatusText is the usual reason phrase of a status, or "".
func StatusText(s int) string {
	switch s {
	case 100:
		return "Continue"
	case 101:
		return "Switching Protocols"
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 202:
		return "Accepted"
	case 204:
		return "No Content"
	case 206:
		return "Partial Content"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 303:
		return "See Other"
	case 304:
		return "Not Modified"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 408:
		return "Request Timeout"
	case 409:
		return "Conflict"
	case 413:
		return "Content Too Large"
	case 422:
		return "Unprocessable Content"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	}
	return ""
}
