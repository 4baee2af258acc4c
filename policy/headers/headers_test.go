package headers

import (
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

func TestEncode(t *testing.T) {
	got := &routev3.Route{}
	Encode(nil, got)
	same(t, got, ``, &routev3.Route{})
	Encode(&Spec{
		Request:  &Operations{Set: map[string]string{"X-B": "100%", "x-a": ""}, Add: map[string]string{"x-c": "v"}, Remove: []string{"X-Z", "x-d"}},
		Response: &Operations{Set: map[string]string{"server": "mesh"}, Remove: []string{"x-powered-by"}},
	}, got)
	same(t, got, `
		request_headers_to_add { header { key: "x-b" value: "100%%" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
		request_headers_to_add { header { key: "x-a" } append_action: OVERWRITE_IF_EXISTS_OR_ADD keep_empty_value: true }
		request_headers_to_add { header { key: "x-c" value: "v" } }
		request_headers_to_remove: ["x-d", "x-z"]
		response_headers_to_add { header { key: "server" value: "mesh" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
		response_headers_to_remove: "x-powered-by"`, &routev3.Route{})
}

func TestMerge(t *testing.T) {
	m := Merge(
		&Spec{Request: &Operations{Set: map[string]string{"x-a": "1", "x-b": "1"}, Remove: []string{"x-c", "x-d"}}},
		&Spec{Request: &Operations{Add: map[string]string{"X-C": "2"}, Remove: []string{"X-A"}}, Response: &Operations{Remove: []string{"y"}}},
	)
	if len(m.Request.Set) != 1 || m.Request.Set["x-b"] != "1" || m.Request.Add["X-C"] != "2" ||
		strings.Join(m.Request.Remove, " ") != "X-A x-d" || m.Response == nil {
		t.Errorf("%+v", m.Request)
	}
}

func TestValidate(t *testing.T) {
	s := &Spec{Request: &Operations{
		Set:    map[string]string{"a b": "", "x-a": "line\nbreak", "x-outrigger-reason": "UF", "x-s": " v"},
		Add:    map[string]string{"X-A": "twice"},
		Remove: []string{"Transfer-Encoding", "host"},
	}, Response: &Operations{}}
	if l := s.Validate("h"); len(l) != 8 {
		t.Errorf("%d:\n%v", len(l), l)
	}
	ok := &Spec{Request: &Operations{Set: map[string]string{"x-a": "1"}}}
	if l := ok.Validate("h"); len(l) > 0 {
		t.Error(l)
	}
}

func same(t *testing.T, got proto.Message, text string, want proto.Message) {
	t.Helper()
	if err := prototext.Unmarshal([]byte(text), want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
}
