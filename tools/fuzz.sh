#!/bin/sh
# Runs every fuzz target of the module for ${FUZZTIME:-10s} each, one after the other.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
time=${FUZZTIME:-10s}

git grep -lE '^func Fuzz[A-Z]' -- '*_test.go' | while read -r file; do
	dir=$(dirname "$file")
	sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file" | while read -r target; do
		echo "== $dir $target"
		go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" </dev/null
	done
done
