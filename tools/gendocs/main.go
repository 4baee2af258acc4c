// Command gendocs writes the reference of what users write, from the Go types: their struct tags say what is allowed,
// their comments what it means.
//
//	go run ./tools/gendocs [-check] DIR
//
// It is run at the root of the repository, and writes DIR/resources.md, DIR/outrigger.schema.json and DIR/xds.md (from the table of what a
// sidecar serves). With -check it
// writes nothing and fails where a file is not what would be written.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"

	"github.com/outrigger-mesh/outrigger/api/resource"
)

// kinds are the specs in the order in which they are documented.
func kinds() []resource.Spec {
	return []resource.Spec{
		&resource.Service{}, &resource.TrafficPolicy{}, &resource.TrafficSplit{}, &resource.Route{},
		&resource.Gateway{}, &resource.External{}, &resource.Supervisor{},
	}
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("gendocs: ")
	check := flag.Bool("check", false, "fail where a file is not what would be written")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: go run ./tools/gendocs [-check] DIR")
	}
	if err := run(flag.Arg(0), *check); err != nil {
		log.Fatal(err)
	}
}

func run(dir string, check bool) error {
	c, err := readComments("api/resource", "policy/balance", "policy/timeout", "policy/retry", "policy/ratelimit",
		"policy/fault", "policy/headers", "policy/outlier", "policy/limit")
	if err != nil {
		return err
	}
	page, err := markdown(c)
	if err != nil {
		return err
	}
	schema, err := jsonSchema(c)
	if err != nil {
		return err
	}
	xds, err := xdsPage()
	if err != nil {
		return err
	}
	for name, want := range map[string][]byte{"resources.md": page, "outrigger.schema.json": schema, "xds.md": xds} {
		file := filepath.Join(dir, name)
		if check {
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
				return fmt.Errorf("%s is not what the types say: make generate writes it anew", file)
			}
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("writing the reference: %w", err)
		}
		if err := os.WriteFile(file, want, 0o644); err != nil {
			return fmt.Errorf("writing the reference: %w", err)
		}
	}
	return nil
}

// base is the type behind pointers, lists and maps.
func base(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		if t == reflect.TypeOf(resource.After(nil)) {
			return t
		}
		t = t.Elem()
	}
	return t
}

// object says whether a type is written with fields of its own.
func object(t reflect.Type) bool { return t.Kind() == reflect.Struct }
