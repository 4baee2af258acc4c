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

if [ -d tools/genref ]; then
	if [ -n "$check" ]; then
		tmp=$(mktemp -d)
		trap 'rm -rf "$tmp"' EXIT
		go run ./tools/genref "$tmp"
		diff -ru docs/reference "$tmp"
	else
		go run ./tools/genref docs/reference
	fi
fi
