#!/bin/sh
# Generates all code anew in a copy of the tree and compares it with what is committed: whoever changes a .proto, the
# vector table or a BPF program commits what comes of it. The BPF objects are compared where the pinned clang is present.
set -eu
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 130' INT TERM
git ls-files -co --exclude-standard -z | xargs -0 sh -c 'for f; do [ -e "$f" ] && printf "%s\0" "$f"; done; true' sh |
	tar -c --null -T - | tar -x -C "$copy"

list() { # the generated files of a tree
	(cd "$1" && find api internal -name '*.pb.go' -o -name '*_bpfe[lb]*.go' -o -name '*_bpfe[lb]*.o' -o -name vectors.h) | sort
}

list "$copy" | (cd "$copy" && grep -v bpfe | xargs rm -f)
(
	cd "$copy"
	go tool -modfile=internal/tools/go.mod buf generate
	go generate ./internal/vector
)
if command -v "${CLANG:-clang-14}" >/dev/null; then
	list "$copy" | (cd "$copy" && grep bpfe | xargs -r rm -f)
	(cd "$copy" && go generate ./internal/sensor/... >/dev/null)
elif [ "${CI:-}" = true ]; then
	echo "generate-check: clang-14 is missing: run make deps" >&2
	exit 1
else
	echo "generate-check: no clang-14, so the BPF objects are not compared: run make deps" >&2
fi

status=0
for file in $({ list .; list "$copy"; } | sort -u); do
	cmp -s "$file" "$copy/$file" || {
		echo "generate-check: $file is not what its source gives: run make generate and commit the result" >&2
		status=1
	}
done
exit $status
