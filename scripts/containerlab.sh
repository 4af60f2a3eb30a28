#!/bin/sh
# Prints the path of a containerlab: an installed one, else build/clab/containerlab, which it builds of the pinned module
# when it is not there yet.
set -eu
cd "$(dirname "$0")/.."

version=v0.69.3
sum=h1:nFEronpvHUBD+5cDMT8uLWQdq0rZ/lJ6JKWmJ7sluHI=
out=$PWD/build/clab/containerlab-$version

if installed=$(command -v containerlab); then
	echo "$installed"
	exit
fi
if [ -x "$out" ]; then
	echo "$out"
	exit
fi

echo "containerlab: building $version, once; this takes a minute or two" >&2
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
# It is built as the main module of its own: its replacements count, and ours stays as it is.
found=$(cd "$tmp" && GOWORK=off ${GO:-go} mod download -json "github.com/srl-labs/containerlab@$version")
field() { printf '%s\n' "$found" | sed -n "s/^[[:space:]]*\"$1\": \"\\(.*\\)\",*\$/\\1/p"; }
if [ "$(field Sum)" != "$sum" ]; then
	echo "containerlab: the module's sum is $(field Sum), expected $sum: not built" >&2
	exit 1
fi
cp -r "$(field Dir)" "$tmp/src"
chmod -R u+w "$tmp/src"
(cd "$tmp/src" && GOWORK=off CGO_ENABLED=0 ${GO:-go} build -mod=readonly -trimpath -ldflags '-s -w' -o "$tmp/containerlab" .) >&2
# A kernel without loadable modules has no /proc/modules, without which it deploys nothing. Any file will do.
[ -e /proc/modules ] || LC_ALL=C sed -i s,/proc/modules,/proc/version, "$tmp/containerlab"
mkdir -p "$(dirname "$out")"
mv "$tmp/containerlab" "$out"
echo "$out"
