#!/bin/sh
# Installs the Autobahn test suite, once, into ${OUTRIGGER_CACHE:-<repo>/.cache}/autobahn, and prints the command that runs
# it. It needs Python 2.7: $PYTHON2, or one that pyenv has, or python2.7 on the path. It is a tool for tests alone.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
dir="${OUTRIGGER_CACHE:-$root/.cache}/autobahn"
version=25.10.1

python=${PYTHON2:-}
if [ -z "$python" ] && command -v pyenv >/dev/null 2>&1; then
	for p in "$(pyenv root)"/versions/2.7*/bin/python2.7; do [ -x "$p" ] && python=$p; done
fi
[ -n "$python" ] || python=$(command -v python2.7) || { echo "autobahn: no Python 2.7 (set PYTHON2)" >&2; exit 1; }

if [ "$(cat "$dir/version" 2>/dev/null || true)" != "$version" ]; then
	rm -rf "$dir"
	"$python" -m pip install --quiet --disable-pip-version-check --no-warn-script-location --target "$dir/lib" "autobahntestsuite==$version" >&2
	touch "$dir/lib/zope/__init__.py" # --target does not make namespace packages
	printf '%s\n' "$version" >"$dir/version"
fi
echo "env PYTHONPATH=$dir/lib $python $dir/lib/bin/wstest"
