// Command genproto writes the Go code of the protobufs under api/: a compiler in Go, and the two standard plugins at the
// versions that this module's go.mod pins. Run it from the root of the repository:
//
//	go run -C tools/genproto . ../../api
//
// Its output depends on nothing but the .proto files and go.mod. With -check it writes nothing and fails where a
// committed file differs.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail where a committed file is not what would be written")
	flag.Parse()
	root := "."
	if flag.NArg() > 0 {
		root = flag.Arg(0)
	}
	if err := run(context.Background(), root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "genproto:", err)
		os.Exit(1)
	}
}

// plugins are the code generators, each a tool of this module, with its parameters.
var plugins = []struct{ tool, parameter string }{
	{"protoc-gen-go", "paths=source_relative"},
	{"protoc-gen-go-grpc", "paths=source_relative"},
}

func run(ctx context.Context, root string, check bool) error {
	names, err := protoFiles(root)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("no .proto file under %s", root)
	}
	req, err := compile(ctx, root, names)
	if err != nil {
		return err
	}
	var stale []error
	for _, p := range plugins {
		out, err := generate(ctx, p.tool, p.parameter, req)
		if err != nil {
			return err
		}
		for _, f := range out {
			path := filepath.Join(root, filepath.FromSlash(f.GetName()))
			if check {
				if have, err := os.ReadFile(path); err != nil || string(have) != f.GetContent() {
					stale = append(stale, fmt.Errorf("%s is not what its .proto says: run make generate", f.GetName()))
				}
				continue
			}
			if err := os.WriteFile(path, []byte(f.GetContent()), 0o644); err != nil {
				return fmt.Errorf("writing generated code: %w", err)
			}
		}
	}
	return errors.Join(stale...)
}

// protoFiles returns the .proto files under root, relative to it, in order.
func protoFiles(root string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".proto" {
			return err
		}
		rel, err := filepath.Rel(root, path)
		names = append(names, filepath.ToSlash(rel))
		return err
	})
	sort.Strings(names)
	return names, err
}

// compile makes the request that is given to every plugin: all files, dependencies first.
func compile(ctx context.Context, root string, names []string) (*pluginpb.CodeGeneratorRequest, error) {
	c := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := c.Compile(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("compiling: %w", err)
	}
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: names}
	seen := map[string]bool{}
	var add func(f protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		req.ProtoFile = append(req.ProtoFile, plain(f))
	}
	for _, f := range files {
		add(linker.File(f))
	}
	return req, nil
}

// plain returns a file's descriptor with options in their generated types, as plugins expect them.
func plain(f protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto {
	return proto.Clone(protoutil.ProtoFromFileDescriptor(f)).(*descriptorpb.FileDescriptorProto)
}

func generate(ctx context.Context, tool, parameter string, req *pluginpb.CodeGeneratorRequest) ([]*pluginpb.CodeGeneratorResponse_File, error) {
	req = proto.Clone(req).(*pluginpb.CodeGeneratorRequest)
	req.Parameter = proto.String(parameter)
	in, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("%s: writing its request: %w", tool, err)
	}
	cmd := exec.CommandContext(ctx, "go", "tool", tool)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", tool, err, strings.TrimSpace(stderr.String()))
	}
	var resp pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(stdout.Bytes(), &resp); err != nil {
		return nil, fmt.Errorf("%s: reading its answer: %w", tool, err)
	}
	if e := resp.GetError(); e != "" {
		return nil, fmt.Errorf("%s: %s", tool, e)
	}
	return resp.File, nil
}
