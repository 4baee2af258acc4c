#!/bin/sh
# Writes all generated files anew: Go code of protobufs, the reference pages. With --check it fails, and shows the
# difference, where a committed file is not what is generated.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"

check=""
[ "${1:-}" != --check ] || check=-check

go run -C tools/genproto . $check ../../api
go run -C tools/genproto . $check ../../examples/shop/proto

go run ./tools/gendocs $check docs/reference
