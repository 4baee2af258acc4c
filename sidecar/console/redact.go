package console

import (
	"github.com/cncf/xds/go/udpa/annotations"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// redacted stands where a secret was.
const redacted = "[redacted]"

// redact takes out of m what Envoy's definitions mark as sensitive: private keys, passwords. What is packed in m is opened. A
// file's name is no secret.
func redact(m protoreflect.Message) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			return
		}
		redact(inner.ProtoReflect())
		if packed, err := anypb.New(inner); err == nil {
			a.Value = packed.GetValue()
		}
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		sensitive, _ := proto.GetExtension(fd.Options(), annotations.E_Sensitive).(bool)
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					redact(e.Message())
					return true
				})
			}
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message())
			}
		case fd.IsList() && sensitive:
			m.Clear(fd)
		case fd.Message() != nil && sensitive:
			if s, ok := v.Message().Interface().(*corev3.DataSource); !ok {
				m.Clear(fd)
			} else if s.GetFilename() == "" {
				s.Specifier = &corev3.DataSource_InlineString{InlineString: redacted}
			}
		case fd.Message() != nil:
			redact(v.Message())
		case sensitive && fd.Kind() == protoreflect.StringKind:
			m.Set(fd, protoreflect.ValueOfString(redacted))
		case sensitive:
			m.Clear(fd)
		}
		return true
	})
}
