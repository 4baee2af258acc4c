#!/bin/sh
# Measures outrigger-sidecar beside its peers and writes docs/benchmarks.md: bench/run.sh [options of bench], about 25 minutes.
# bench/run.sh --quick takes at most 5 minutes. CASES=s1,s3 and BENCH_REPS=5 may also stand in the environment. Tables go to
# the terminal; they go into docs only after a whole run, or where -docs docs asks for it.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
PATH="${OUTRIGGER_CACHE:-$root/.cache}/bin:$PATH"
export PATH CGO_ENABLED=0

p=${P:-2}
bin=${OUTRIGGER_BIN:-bin}
mkdir -p "$bin"
go build -p "$p" -tags grpcnotrace -trimpath -ldflags "-s -w" -o "$bin/" ./cmd/outrigger ./cmd/outrigger-sidecar ./cmd/outrigger-runner ./bench ./bench/load

whole=1
for a in "$@"; do
	case $a in -quick | --quick | -cases* | --cases* | -docs* | --docs* | -reps* | --reps* | -time* | --time*) whole="" ;; esac
done
if [ -n "${CASES:-}" ]; then
	set -- -cases "$CASES" "$@"
	whole=""
fi
if [ -n "${BENCH_REPS:-}" ]; then set -- -reps "$BENCH_REPS" "$@"; fi
if [ -n "$whole" ]; then set -- -docs docs "$@"; fi
exec "$bin/bench" -bin "$bin" "$@"
