#!/bin/sh
# Runs every fuzz target of the module for ${FUZZTIME:-10s} each, ${FUZZJOBS:-2} at a time with a worker each, and says at the
# end how many there were and how long it took. FUZZTOTAL=1h in place of FUZZTIME divides that time between them.
# FUZZ=regexp takes only the targets whose "package name" it matches. What a target fails on is kept in its package's testdata/fuzz: commit it
# with what mends it.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
jobs=${FUZZJOBS:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

git ls-files --cached --others --exclude-standard -- '*_test.go' | while read -r file; do
	[ -f "$file" ] || continue
	sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file" | while read -r target; do
		printf '%s %s\n' "$(dirname "$file")" "$target"
	done
done | { grep -E "${FUZZ:-.}" || true; } | sort >"$work/targets"
n=$(wc -l <"$work/targets" | tr -d ' ')
[ "$n" -gt 0 ] || { echo "no fuzz target matches ${FUZZ:-.}" >&2; exit 1; }

time=${FUZZTIME:-10s}
if [ -n "${FUZZTOTAL:-}" ]; then
	case $FUZZTOTAL in
	*h) total=$((${FUZZTOTAL%h} * 3600)) ;;
	*m) total=$((${FUZZTOTAL%m} * 60)) ;;
	*) total=${FUZZTOTAL%s} ;;
	esac
	time=$((total * jobs / n))s
fi

# One binary a package is built and one target of it is run.
cat >"$work/one" <<'SH'
log=$WORK/$(printf '%s' "$1-$2" | tr / _)
if GOMAXPROCS=${GOMAXPROCS:-2} go test "./$1" -run '^$' -fuzz "^$2\$" -fuzztime "$TIME" -fuzzminimizetime 100x -parallel 1 >"$log" 2>&1 </dev/null; then
	printf 'ok    %-44s %-20s %s\n' "$1" "$2" "$(sed -nE 's/.*(execs: [0-9]+).*(new interesting: [0-9]+ \(total: [0-9]+\)).*/\1, \2/p' "$log" | tail -1)"
else
	printf 'FAIL  %s %s\n' "$1" "$2"
	cat "$log"
	echo "$1 $2" >>"$WORK/failed"
fi
SH
start=$(date +%s)
WORK=$work TIME=$time xargs -P "$jobs" -n 2 sh "$work/one" <"$work/targets"
echo "$n fuzz targets, $time each, $jobs at a time: $(($(date +%s) - start)) s"
if [ -s "$work/failed" ]; then
	echo "failed:" >&2
	cat "$work/failed" >&2
	exit 1
fi
