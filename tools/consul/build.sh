#!/bin/sh
# Builds the Consul agent that tests run against, once, into ${OUTRIGGER_CACHE:-<repo>/.cache}/bin/consul.
#
# The version is pinned in go.mod beside this script: a module of its own, so that nothing of Consul's graph (nor its
# licence, BUSL) enters the product. It is a tool for tests alone. A build takes 4 to 12 minutes on two cores and up to
# 2.5 GB of memory; a second call with the binary of the pinned version in place does nothing.
#
# Environment: OUTRIGGER_CACHE (where to put it), CONSUL_BUILD_P (packages built at once, default: all cores).
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH= cd -- "$here/../.." && pwd)
bin="${OUTRIGGER_CACHE:-$root/.cache}/bin"
out="$bin/consul"

cd "$here"
version=$(awk '$1 == "github.com/hashicorp/consul" { print $2 } $1 == "require" && $2 == "github.com/hashicorp/consul" { print $3 }' go.mod)
if [ -z "$version" ]; then
	echo "build.sh: go.mod names no github.com/hashicorp/consul" >&2
	exit 1
fi

# The stamp tells which version lies there: a changed pin must build again.
if [ -x "$out" ] && [ "$(cat "$out.version" 2>/dev/null || true)" = "$version" ]; then
	exit 0
fi

mkdir -p "$bin"
tmp="$bin/.consul.$$"
trap 'rm -f "$tmp"' EXIT INT TERM
echo "building consul $version (a test tool; 4 to 12 minutes, once)" >&2
GOWORK=off GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0 \
	go build ${CONSUL_BUILD_P:+-p "$CONSUL_BUILD_P"} -trimpath -ldflags="-s -w" -o "$tmp" github.com/hashicorp/consul
mv -f "$tmp" "$out"
printf '%s\n' "$version" >"$out.version"
echo "built $out" >&2
