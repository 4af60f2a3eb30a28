#!/bin/sh
# All linters; reports everything before it fails.
set -u
cd "$(dirname "$0")/.."

tool="go tool -modfile=internal/tools/go.mod"
failed=
run() { # what, command...
	name=$1
	shift
	if ! "$@"; then
		failed="$failed $name"
	fi
}

none() { # a command that must print nothing
	out=$("$@" 2>&1) && [ -z "$out" ] && return 0
	printf '%s\n' "$out"
	return 1
}

run vet go vet ./...
run staticcheck $tool staticcheck ./...
run gofumpt none $tool gofumpt -l .
run buf $tool buf lint

# The API must stay compatible with the last release.
release=$(git describe --tags --abbrev=0 2>/dev/null)
[ -z "$release" ] || run buf-breaking $tool buf breaking --against ".git#tag=$release"

c_code() {
	clang-format-14 --dry-run -Werror $(git ls-files -co --exclude-standard 'internal/sensor/bpf/*.[ch]' | grep -v vectors.h)
}
if command -v clang-format-14 >/dev/null; then
	run clang-format c_code
elif [ "${CI:-}" = true ]; then
	echo "lint: clang-format-14 is missing: run make deps"
	failed="$failed clang-format"
else
	echo "lint: no clang-format-14, so the C code is not checked: run make deps"
fi

for script in $(git ls-files -co --exclude-standard '*.sh' .ci/run); do
	run "$script" sh -n "$script"
done

if [ -n "$failed" ]; then
	echo "lint: not clean:$failed (make format mends gofumpt and clang-format)" >&2
	exit 1
fi
