#!/bin/bash
# Runs both commands of the README in a Debian root that holds nothing but make, git, the certificates and the Go of this
# machine: test/fresh/run.sh [LOG]. Needs root and debootstrap. The log goes to docs/verification/fresh.log.
#
# FRESH_TARGETS names other targets of make, FRESH_DIR a directory to use (and to use again), FRESH_KEEP=1 keeps it.
#
# Nothing of this machine is visible in there besides Go, and how the network is reached: resolv.conf, certificates,
# the proxy variables of the environment.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
log=${1:-$root/docs/verification/fresh.log}
work=${FRESH_DIR:-$(mktemp -d /var/tmp/fresh.XXXXXX)}
mkdir -p "$work"
sys=$work/root
suite=bookworm

if [ "$(id -u)" != 0 ]; then echo "fresh: needs root" >&2; exit 1; fi
command -v debootstrap >/dev/null || { apt-get update -qq; apt-get install -y -qq debootstrap >/dev/null; }

mounted=()
cleanup() {
	# A mesh that a failed run left is in the root's own pid namespace and has ended with it.
	for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do umount -l "${mounted[$i]}" || true; done
	[ -n "${FRESH_KEEP:-}" ] || rm -rf --one-file-system "$work"
}
trap cleanup EXIT
bind() { mkdir -p "$2"; mount --bind "$1" "$2"; mounted+=("$2"); }

kept="a root made for this run"
[ ! -d "$sys/usr" ] || kept="a root kept from an earlier run (FRESH_DIR): its packages and Go's caches were there"
if [ ! -d "$sys/usr" ]; then
	debootstrap --variant=minbase --include=make,git,ca-certificates "$suite" "$sys" >"$work/debootstrap.log" ||
		{ tail -20 "$work/debootstrap.log" >&2; exit 1; }
fi
# The security and update archives, as any Debian has them.
mirror=$(sed -nE 's/^deb ([^ ]+) .*/\1/p' "$sys/etc/apt/sources.list" | head -1)
printf 'deb %s %s main\ndeb %s %s-updates main\n' "$mirror" "$suite" "$mirror" "$suite" >"$sys/etc/apt/sources.list"

cp -L /etc/resolv.conf "$sys/etc/resolv.conf"
cp -L /etc/hosts "$sys/etc/hosts"
cp -L /etc/ssl/certs/ca-certificates.crt "$sys/etc/ssl/certs/ca-certificates.crt"
goroot=$(go env GOROOT)
mkdir -p "$sys/usr/local/go"
cp -a "$goroot/." "$sys/usr/local/go/"
rm -rf "$sys/src/outrigger"
git clone -q "$root" "$sys/src/outrigger"
bind /dev "$sys/dev"
bind /sys "$sys/sys"

# Only what leads to the network is taken from this environment.
env=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin GOTOOLCHAIN=local GOFLAGS=-buildvcs=false CI=true)
for v in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY GOPROXY GONOSUMDB GONOSUMCHECK GOSUMDB PIP_INDEX_URL PIP_CERT PIP_DEFAULT_TIMEOUT SSL_CERT_FILE SSL_CERT_DIR; do
	[ -z "${!v:-}" ] || env+=("$v=${!v}")
done

# One pid namespace for each command: what a command leaves behind ends with it, and is told before.
enter() {
	unshare --pid --fork --mount --kill-child bash -c 'mount -t proc proc "$1/proc"; exec chroot "$1" /usr/bin/env -i "${@:2}"' bash "$sys" "${env[@]}" \
		/bin/sh -c 'cd /src/outrigger && "$@"; rc=$?; left=$(grep -lsE "outrigger|bin/shop" /proc/[0-9]*/comm || true)
			[ -z "$left" ] || { echo "left behind:"; echo "$left"; rc=1; }; exit $rc' sh "$@"
}

mkdir -p "$(dirname "$log")"
{
	echo "# README's commands in a fresh Debian $suite, $(date -u +%Y-%m-%dT%H:%MZ), commit $(git -C "$root" rev-parse --short HEAD)"
	echo "# $(nproc) cores, $(awk '/MemTotal/ {printf "%d GiB", $2/1048576+0.5}' /proc/meminfo), Linux $(uname -r), $(go version); $kept"
	failed=0
	for target in ${FRESH_TARGETS:-demo test}; do
		echo
		echo "## make $target"
		began=$(date +%s)
		if enter make "$target" 2>&1; then rc=0; else rc=$?; fi
		echo "## make $target: exit $rc after $(($(date +%s) - began)) s"
		[ "$rc" = 0 ] || failed=1
	done
	exit $failed
} </dev/null | sed -u -e "s#$work##g" -e 's/\x1b\[[0-9;]*[A-Za-z]//g' | tee "$log"
exit "${PIPESTATUS[0]}"
