#!/bin/sh
# Lists packages: "root" those with tests that need root, a tool or a router, "unit" all others. The first kind runs apart,
# one package at a time: they share the machine's kernel.
set -eu
cd "$(dirname "$0")/.."

root=$({
	git ls-files -co --exclude-standard '*_test.go' | xargs grep -slE 'Need(Root|Tool)\(' | xargs -r -n1 dirname
	git ls-files -co --exclude-standard ':(glob)test/e2e/*_test.go' | xargs -r -n1 dirname
} | sort -u | sed 's,^,./,')

case ${1:-} in
root) printf '%s\n' $root ;;
unit) go list -f '{{.Dir}}' ./... | sed "s,^$PWD,.," | grep -vxF "${root:-none}" ;;
*) echo 'usage: scripts/packages.sh root|unit' >&2; exit 2 ;;
esac
