#!/bin/sh
# Runs every fuzz target of the module for the given time each (default 20s). Making an interesting input smaller may take as
# long by default, and nothing else is tried meanwhile.
set -eu
cd "$(dirname "$0")/.."

for file in $(git ls-files -co --exclude-standard '*_test.go' | xargs grep -l '^func Fuzz'); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		echo "fuzz: $target in $(dirname "$file")"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-20s}" -fuzzminimizetime 100x "./$(dirname "$file")"
	done
done
