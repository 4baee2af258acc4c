package httpwire_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// What options of the connection manager do to a request's head.
func TestRequestHeads(t *testing.T) {
	up := mirror(t)
	port := ""
	for _, c := range []struct {
		name, hcm, meta, request string
		want, not                []string // lines of the head that the upstream got
		status                   int
		location                 string
	}{
		{name: "case is kept", request: "GET / HTTP/1.1\r\nHoSt: a\r\nX-oDD-Case: b\r\n\r\n", want: []string{"HoSt: a", "X-oDD-Case: b"}},
		{
			name: "case is kept by the formatter", hcm: `, "http_protocol_options": {"header_key_format": {"stateful_formatter": {"name": "preserve_case",
			"typed_config": {"@type": "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"}}}}`,
			request: "GET / HTTP/1.1\r\nHost: a\r\nX-oDD-Case: b\r\n\r\n", want: []string{"X-oDD-Case: b"},
		},
		{name: "via", hcm: `, "via": "1.1 edge"`, request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", want: []string{"via: 1.1 edge"}},
		{name: "via is appended to", hcm: `, "via": "1.1 edge"`, request: "GET / HTTP/1.1\r\nHost: a\r\nVia: 1.0 x\r\nVia: 1.1 y\r\n\r\n", want: []string{"Via: 1.0 x", "Via: 1.1 y, 1.1 edge"}},
		{
			name: "peer", hcm: `, "use_remote_address": true`, request: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n",
			want: []string{"X-Forwarded-For: 10.0.0.1, 127.0.0.1", "X-Forwarded-Proto: http"}, not: []string{"https"},
		},
		{name: "no peer", hcm: ``, request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", not: []string{"forwarded"}},
		{
			name: "trusted", hcm: `, "use_remote_address": true, "xff_num_trusted_hops": 1`, request: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n",
			want: []string{"X-Forwarded-Proto: https", "x-forwarded-for: 127.0.0.1"},
		},
		{name: "not appended", hcm: `, "use_remote_address": true, "skip_xff_append": true`, request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", not: []string{"x-forwarded-for"}},
		{name: "port", hcm: `, "append_x_forwarded_port": true`, request: "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Port: 1\r\n\r\n", want: []string{"X-Forwarded-Port: PORT"}},
		{
			name: "Forwarded", meta: `, "metadata": {"typed_filter_metadata": {"outrigger.dev": {"@type": "type.googleapis.com/outrigger.v1.ListenerMetadata", "forwarded": true}}}`,
			hcm: `, "strip_any_host_port": true`, request: "GET / HTTP/1.1\r\nHost: a:81\r\nForwarded: for=192.0.2.1\r\n\r\n",
			want: []string{`Forwarded: for=192.0.2.1, for=127.0.0.1;host="a:81";proto=http`, "Host: a"},
		},
		{name: "any port", hcm: `, "strip_any_host_port": true`, request: "GET / HTTP/1.1\r\nHost: a:81\r\n\r\n", want: []string{"Host: a"}},
		{name: "any port of IPv6", hcm: `, "strip_any_host_port": true`, request: "GET / HTTP/1.1\r\nHost: [::1]:81\r\n\r\n", want: []string{"Host: [::1]"}},
		{name: "no port of IPv6", hcm: `, "strip_any_host_port": true`, request: "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", want: []string{"Host: [::1]"}},
		{name: "dot", hcm: `, "strip_trailing_host_dot": true`, request: "GET / HTTP/1.1\r\nHost: a.b.:81\r\n\r\n", want: []string{"Host: a.b:81"}},
		{name: "dot and port", hcm: `, "strip_trailing_host_dot": true, "strip_any_host_port": true`, request: "GET / HTTP/1.1\r\nHost: a.b.:81\r\n\r\n", want: []string{"Host: a.b"}},
		{name: "underscores", request: "GET / HTTP/1.1\r\nHost: a\r\nx_y: 1\r\n\r\n", want: []string{"x_y: 1"}},
		{name: "no underscores", hcm: `, "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"}`, request: "GET / HTTP/1.1\r\nHost: a\r\nx_y: 1\r\n\r\n", status: 400},
		{
			name: "underscores dropped", hcm: `, "common_http_protocol_options": {"headers_with_underscores_action": "DROP_HEADER"}`,
			request: "GET / HTTP/1.1\r\nHost: a\r\nx_y: 1\r\nx-y: 2\r\n\r\n", want: []string{"x-y: 2"}, not: []string{"x_y"},
		},
		{name: "escaped slashes", request: "GET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n", want: []string{"GET /a%2Fb HTTP/1.1"}},
		{name: "escaped slashes refused", hcm: `, "path_with_escaped_slashes_action": "REJECT_REQUEST"`, request: "GET /a%5cb HTTP/1.1\r\nHost: a\r\n\r\n", status: 400},
		{name: "escaped slash in a query", hcm: `, "path_with_escaped_slashes_action": "REJECT_REQUEST"`, request: "GET /a?b=%2f HTTP/1.1\r\nHost: a\r\n\r\n", want: []string{"GET /a?b=%2f HTTP/1.1"}},
		{name: "escaped slashes redirected", hcm: `, "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT"`, request: "GET /a%2fb%5C?c=%2F HTTP/1.1\r\nHost: a\r\n\r\n", status: 307, location: `/a/b\?c=%2F`},
		{
			name: "escaped slashes, normalized", hcm: `, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD", "normalize_path": true, "merge_slashes": true`,
			request: "GET /a%2f..%5C%2Fb HTTP/1.1\r\nHost: a\r\n\r\n", want: []string{"GET /b HTTP/1.1"},
		},
		{name: "normalized", hcm: `, "normalize_path": true`, request: "GET /../a/./%7eb/../%61%3a%2f HTTP/1.1\r\nHost: a\r\n\r\n", want: []string{"GET /a/a%3a%2f HTTP/1.1"}},
		{name: "slashes stay", hcm: `, "normalize_path": true`, request: "GET //a///b HTTP/1.1\r\nHost: a\r\n\r\n", want: []string{"GET //a///b HTTP/1.1"}},
		{name: "slashes merged", hcm: `, "merge_slashes": true`, request: "GET //a///b?c//d HTTP/1.1\r\nHost: a\r\n\r\n", want: []string{"GET /a/b?c//d HTTP/1.1"}},
		{name: "id of an unknown caller", hcm: `, "use_remote_address": true`, request: "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n", not: []string{"mine"}},
		{
			name: "id of an unknown caller, kept", hcm: `, "use_remote_address": true, "preserve_external_request_id": true`,
			request: "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n", want: []string{"X-Request-Id: mine"},
		},
		{name: "id of a sidecar", request: "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n", want: []string{"X-Request-Id: mine"}},
		{name: "no id", hcm: `, "generate_request_id": false`, request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", not: []string{"x-request-id"}},
		{name: "HTTP/1.0", request: "GET / HTTP/1.0\r\nHost: a\r\n\r\n", want: []string{"GET / HTTP/1.1", "Host: a"}},
		{
			name: "HTTP/1.0 without Host", hcm: `, "http_protocol_options": {"accept_http_10": true, "default_host_for_http_10": "old.example"}`,
			request: "GET / HTTP/1.0\r\n\r\n", want: []string{"host: old.example"},
		},
		{name: "absolute form", request: "GET http://b:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n", want: []string{"GET /x?y HTTP/1.1", "Host: b:80"}, not: []string{"Host: a\r"}},
		{name: "asterisk", request: "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", want: []string{"OPTIONS * HTTP/1.1"}},
		{
			name: "nominated fields", request: "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 2\r\nProxy-Connection: x\r\nTE: trailers, gzip\r\nHTTP2-Settings: x\r\n\r\n",
			want: []string{"TE: trailers"}, not: []string{"hop", "onnection", "gzip", "eep", "ettings"},
		},
		{name: "too many fields", hcm: `, "common_http_protocol_options": {"max_headers_count": 3}`, request: "GET / HTTP/1.1\r\nHost: a\r\nb: 1\r\nc: 1\r\nd: 1\r\n\r\n", status: 431},
		{name: "too large", hcm: `, "max_request_headers_kb": 1`, request: "GET / HTTP/1.1\r\nHost: a\r\nb: " + strings.Repeat("x", 1100) + "\r\n\r\n", status: 431},
	} {
		t.Run(c.name, func(t *testing.T) {
			sc := start(t, spec{up: up, hcm: c.hcm, meta: c.meta})
			port = sc.addr[strings.LastIndexByte(sc.addr, ':')+1:]
			resp, got := sc.exchange(t, c.request)
			if c.status == 0 {
				c.status = 200
			}
			if resp.StatusCode != c.status || resp.Header.Get("Location") != c.location {
				t.Fatal(resp.StatusCode, resp.Header, got)
			}
			lines := "\r\n" + got
			for _, w := range c.want {
				if !strings.Contains(lines, "\r\n"+strings.ReplaceAll(w, "PORT", port)+"\r\n") {
					t.Errorf("%q lacks %q", got, w)
				}
			}
			for _, w := range c.not {
				if strings.Contains(got, w) {
					t.Errorf("%q holds %q", got, w)
				}
			}
		})
	}
}

// The same options hold over HTTP/2.
func TestRequestHeadsHTTP2(t *testing.T) {
	sc := start(t, spec{up: mirror(t), hcm: `, "via": "2 edge", "use_remote_address": true, "append_x_forwarded_port": true, "strip_any_host_port": true,
		"common_http_protocol_options": {"headers_with_underscores_action": "DROP_HEADER"}, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"`})
	req, _ := http.NewRequest("GET", sc.url+"/a%2Fb", nil)
	req.Header.Set("X_y", "1")
	resp, err := client(t, true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	for _, w := range []string{"GET /a/b HTTP/1.1\r\n", "Host: 127.0.0.1\r\n", "via: 2 edge\r\n", "x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-port: "} {
		if !strings.Contains(string(b), w) {
			t.Errorf("%q lacks %q", b, w)
		}
	}
	if strings.Contains(string(b), "x_y") || resp.Header.Get("Via") != "2 edge" {
		t.Errorf("%q %v", b, resp.Header)
	}
}

// What options do to a response's head.
func TestResponseHeads(t *testing.T) {
	up := mirror(t)
	for _, c := range []struct {
		name, hcm, server, via string
		id                     bool
	}{
		{name: "plain", server: "mirror"},
		{name: "overwritten", hcm: `, "server_name": "outrigger"`, server: "outrigger"},
		{name: "if absent", hcm: `, "server_name": "outrigger", "server_header_transformation": "APPEND_IF_ABSENT"`, server: "mirror"},
		{name: "passed", hcm: `, "server_name": "outrigger", "server_header_transformation": "PASS_THROUGH"`, server: "mirror"},
		{name: "via", hcm: `, "via": "edge"`, server: "mirror", via: "edge"},
		{name: "id", hcm: `, "always_set_request_id_in_response": true`, server: "mirror", id: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, h2 := range []bool{false, true} {
				sc := start(t, spec{up: up, hcm: c.hcm})
				resp, err := client(t, h2).Get(sc.url + "/")
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if h := resp.Header; h.Get("Server") != c.server || h.Get("Via") != c.via || (h.Get("X-Request-Id") != "") != c.id {
					t.Error(h)
				}
			}
		})
	}
}

// What is not served is refused by its path.
func TestRefusedOptions(t *testing.T) {
	const at = "filter_chains[0].filters[0].typed_config."
	for _, c := range []struct{ name, hcm, common, cluster, field string }{
		{name: "chunked length", hcm: `, "http_protocol_options": {"allow_chunked_length": true}`, field: at + "http_protocol_options.allow_chunked_length"},
		{name: "absolute form", hcm: `, "http_protocol_options": {"allow_absolute_url": false}`, field: at + "http_protocol_options.allow_absolute_url"},
		{name: "proper case", hcm: `, "http_protocol_options": {"header_key_format": {"proper_case_words": {}}}`, field: at + "http_protocol_options.header_key_format.proper_case_words"},
		{name: "two ways to strip", hcm: `, "strip_matching_host_port": true, "strip_any_host_port": true`, field: at + "strip_matching_host_port"},
		{name: "no time to linger", hcm: `, "delayed_close_timeout": "0s"`, field: at + "delayed_close_timeout"},
		{name: "user agent", hcm: `, "add_user_agent": true`, field: at + "add_user_agent"},
		{name: "control character", hcm: `, "via": "a\r\nb: c"`, field: at + "via"},
		{name: "host of upstreams", cluster: `"default_host_for_http_10": "x"`, field: `typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].explicit_http_config.http_protocol_options.default_host_for_http_10`},
		{
			name: "underscores of upstreams", common: `"headers_with_underscores_action": "DROP_HEADER"`,
			field: `typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].common_http_protocol_options.headers_with_underscores_action`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, spec{hcm: c.hcm, common: c.common, cluster: c.cluster}, c.field)
		})
	}
}
