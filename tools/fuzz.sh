#!/bin/sh
# Runs every fuzz target of the module, ${FUZZJOBS:-2} at a time with one worker each, and says at the end how many there were and
# how long it took.
#
#   FUZZTIME=20s   for each target (the default), or
#   FUZZTOTAL=1h   in all, divided between them
#   FUZZ=regexp    only the targets whose "package name" it matches
#
# What a target fails on is kept in its package's testdata/fuzz: commit it with what mends it. What is merely interesting
# is kept in ${OUTRIGGER_CACHE:-.cache}/fuzz, and the next run begins with it.
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

time=${FUZZTIME:-20s}
if [ -n "${FUZZTOTAL:-}" ]; then
	case $FUZZTOTAL in
	*h) total=$((${FUZZTOTAL%h} * 3600)) ;;
	*m) total=$((${FUZZTOTAL%m} * 60)) ;;
	*) total=${FUZZTOTAL%s} ;;
	esac
	time=$((total * jobs / n))s
fi

# One instrumented binary a package.
export WORK="$work" TIME="$time" FOUND="${OUTRIGGER_CACHE:-$root/.cache}/fuzz"
start=$(date +%s)
cut -d' ' -f1 "$work/targets" | uniq | while read -r dir; do
	go test -c -p "${P:-2}" -fuzz . -o "$work/$(printf %s "$dir" | tr / _)" "./$dir" || { echo "$dir does not build" >>"$work/failed"; break; }
done
built=$(($(date +%s) - start))

cat >"$work/one" <<'SH'
name=$(printf %s "$1" | tr / _)
log=$WORK/$name-$2.log
mkdir -p "$FOUND/$1"
if (cd "$1" && GOMAXPROCS=2 "$WORK/$name" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$TIME" -test.fuzzminimizetime 100x \
	-test.parallel 1 -test.fuzzcachedir "$FOUND/$1") >"$log" 2>&1 </dev/null; then
	printf 'ok    %-40s %-20s %s\n' "$1" "$2" "$(sed -nE 's/.*(execs: [0-9]+).*(new interesting: [0-9]+ \(total: [0-9]+\)).*/\1, \2/p' "$log" | tail -1)"
else
	printf 'FAIL  %s %s\n' "$1" "$2"
	cat "$log"
	echo "$1 $2" >>"$WORK/failed"
fi
SH
[ -s "$work/failed" ] || xargs -P "$jobs" -n 2 sh "$work/one" <"$work/targets"
echo "$n fuzz targets, $time each, $jobs at a time: $(($(date +%s) - start)) s, $built s of them to build"
if [ -s "$work/failed" ]; then
	echo "failed:" >&2
	cat "$work/failed" >&2
	exit 1
fi
