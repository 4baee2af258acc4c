#!/bin/sh
# Runs the benchmark rows, beside HAProxy and Envoy: bench/run.sh [options of bench/http1]. Results go to the terminal
# and, where -json FILE is given, to a file.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
PATH="$root/.cache/bin:$PATH"
export PATH
exec go run ./bench/http1 "$@"
