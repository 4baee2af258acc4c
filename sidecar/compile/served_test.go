package compile

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	gotoken "go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	// read by xdsclient alone
	_ "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
)

// byHand are the messages that sidecar/xdsclient reads without their descriptors, which would link in all that a
// bootstrap may name.
var byHand = []protoreflect.FullName{
	"envoy.config.bootstrap.v3.Bootstrap", "envoy.config.bootstrap.v3.Admin",
	"envoy.config.bootstrap.v3.Bootstrap.StaticResources", "envoy.config.bootstrap.v3.Bootstrap.DynamicResources",
}

// reads are the fields that a package's code takes out of protobuf messages, as "message.field".
type reads map[string]bool

// TestServedFieldsAreRead: a field that the table calls served is one that some code of this package, or of
// xdsclient, takes out of its message, or one that inert says why not. So nothing is accepted and then forgotten.
func TestServedFieldsAreRead(t *testing.T) {
	read := reads{}
	exports := exportData(t, "./sidecar/compile", "./sidecar/xdsclient")
	for _, dir := range []string{".", "../xdsclient"} {
		read.scan(t, dir, exports)
	}
	for message, fields := range served {
		if slices.Contains(byHand, message) {
			continue
		}
		mt, err := protoregistry.GlobalTypes.FindMessageByName(message)
		if err != nil {
			t.Errorf("%s: %v", message, err)
			continue
		}
		for _, name := range strings.Fields(string(fields)) {
			fd := mt.Descriptor().Fields().ByName(protoreflect.Name(name))
			key := string(message) + "." + name
			switch why := inert[key]; {
			case fd == nil:
				t.Errorf("%s is not a field of Envoy's", key)
			case why == "" && !read[key]:
				t.Errorf("%s is listed as served and read nowhere: read it, refuse it, or say in inert why it has no effect", key)
			case why != "" && read[key]:
				t.Errorf("%s is read, and inert says that it has no effect: %s", key, why)
			}
		}
	}
	for _, key := range slices.Concat(slices.Collect(maps.Keys(inert)), slices.Collect(maps.Keys(limits))) {
		i := strings.LastIndexByte(key, '.')
		if !served[protoreflect.FullName(key[:i])].has(protoreflect.Name(key[i+1:])) {
			t.Errorf("a note names %s, which is not served", key)
		}
	}
	if len(read) < 150 {
		t.Errorf("only %d reads were found: the scan does not see the code", len(read))
	}
}

// TestUnservedFieldsAreRefused sets each field of each message of the table, and sees those that are not listed
// refused by their path and no listed one.
func TestUnservedFieldsAreRefused(t *testing.T) {
	refused := 0
	for message := range served {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(message)
		if err != nil {
			continue // by hand: sidecar/xdsclient's tests
		}
		fds := mt.Descriptor().Fields()
		for i := range fds.Len() {
			fd, m := fds.Get(i), mt.New()
			switch {
			case fd.IsMap():
				k := protoreflect.ValueOfString("k").MapKey()
				m.Mutable(fd).Map().Set(k, m.Mutable(fd).Map().NewValue())
			case fd.IsList():
				m.Mutable(fd).List().Append(m.Mutable(fd).List().NewElement())
			case fd.Message() != nil:
				m.Set(fd, m.NewField(fd))
			default:
				m.Set(fd, nonzero(fd))
			}
			r := &report{}
			checkMessage(r, "at", m)
			path := "at." + string(fd.Name())
			told := slices.ContainsFunc(r.errs, func(e fieldError) bool { return e.path == path })
			if listed := served[message].has(fd.Name()); told == listed {
				t.Errorf("%s.%s: listed %v, refused %v: %v", message, fd.Name(), listed, told, r.errs)
			}
			if told {
				refused++
			}
		}
	}
	if refused < 300 {
		t.Errorf("only %d fields were refused", refused)
	}
}

func nonzero(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(1)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(1)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(1)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(1)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("x"))
	default:
		return protoreflect.ValueOfString("x")
	}
}

// exportData finds the compiled form of what the packages stand on.
func exportData(t *testing.T, packages ...string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-export", "-deps", "-json=ImportPath,Export"}, packages...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	files := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		files[p.ImportPath] = p.Export
	}
}

// scan notes what the package in dir reads: calls of getters, fields, and the wrappers of oneofs.
func (r reads) scan(t *testing.T, dir string, exports map[string]string) {
	t.Helper()
	fset := gotoken.NewFileSet()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, n, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	info := &types.Info{Selections: map[*ast.SelectorExpr]*types.Selection{}, Uses: map[*ast.Ident]types.Object{}}
	if _, err := conf.Check(dir, fset, files, info); err != nil {
		t.Fatal(err)
	}
	byType := map[string]protoreflect.MessageDescriptor{} // "package path.Type"
	wrappers := map[string]string{}
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		e := reflect.TypeOf(mt.Zero().Interface()).Elem()
		byType[e.PkgPath()+"."+e.Name()] = mt.Descriptor()
		for i := range mt.Descriptor().Fields().Len() {
			if fd := mt.Descriptor().Fields().Get(i); fd.ContainingOneof() != nil {
				// Where two would have the same name protoc-gen-go adds an underscore.
				w := e.PkgPath() + "." + e.Name() + "_" + goName(string(fd.Name()))
				wrappers[w] = string(mt.Descriptor().FullName()) + "." + string(fd.Name())
				wrappers[w+"_"] = wrappers[w]
			}
		}
		return true
	})
	for sel, s := range info.Selections {
		typ := s.Recv()
		if p, ok := typ.(*types.Pointer); ok {
			typ = p.Elem()
		}
		named, ok := typ.(*types.Named)
		if !ok || named.Obj().Pkg() == nil {
			continue
		}
		md := byType[named.Obj().Pkg().Path()+"."+named.Obj().Name()]
		if md == nil {
			if _, isInterface := named.Underlying().(*types.Interface); isInterface {
				r.byInterface(sel.Sel.Name)
			}
			continue
		}
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			if n := goName(string(fd.Name())); sel.Sel.Name == "Get"+n || sel.Sel.Name == n {
				r[string(md.FullName())+"."+string(fd.Name())] = true
			}
		}
	}
	for _, o := range info.Uses {
		if tn, ok := o.(*types.TypeName); ok && tn.Pkg() != nil {
			if f := wrappers[tn.Pkg().Path()+"."+tn.Name()]; f != "" {
				r[f] = true
			}
		}
	}
}

// byInterface counts a getter that is called through an interface of this package (headerFields) as one of every message
// that has it.
func (r reads) byInterface(method string) {
	for message, fields := range served {
		for _, f := range strings.Fields(string(fields)) {
			if method == "Get"+goName(f) && strings.Contains(f, "_headers_to_") {
				r[string(message)+"."+f] = true
			}
		}
	}
}

// goName is a field's name in Go, as protoc-gen-go makes it.
func goName(s string) string {
	var b strings.Builder
	up := true
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '_' && i+1 < len(s) && s[i+1] >= 'a' && s[i+1] <= 'z':
			up = true
			continue
		case up && c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		up = c >= '0' && c <= '9'
		b.WriteByte(c)
	}
	return b.String()
}
