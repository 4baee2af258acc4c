#!/bin/sh
# Installs, once, the clients of other languages that test/interop needs and no package brings: Python's h2 and grpcio in a virtual
# environment, and, where npm is there, Node's @grpc/grpc-js. All in ${OUTRIGGER_CACHE:-<repo>/.cache}/peers.
set -eu

h2=4.4.1 grpcio=1.85.3 grpcjs=1.14.7

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH= cd -- "$here/../.." && pwd)
peers="${OUTRIGGER_CACHE:-$root/.cache}/peers"
mkdir -p "$peers"

if [ "$(cat "$peers/python.version" 2>/dev/null || true)" != "$h2 $grpcio" ]; then
	rm -rf "$peers/venv"
	python3 -m venv "$peers/venv"
	"$peers/venv/bin/pip" install --quiet --disable-pip-version-check "h2==$h2" "grpcio==$grpcio"
	echo "$h2 $grpcio" >"$peers/python.version"
fi
if command -v npm >/dev/null 2>&1 && [ "$(cat "$peers/node.version" 2>/dev/null || true)" != "$grpcjs" ]; then
	rm -rf "$peers/node_modules"
	(cd "$peers" && npm install --silent --no-audit --no-fund --no-save --prefix "$peers" "@grpc/grpc-js@$grpcjs")
	echo "$grpcjs" >"$peers/node.version"
fi
