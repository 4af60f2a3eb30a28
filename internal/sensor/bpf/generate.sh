#!/bin/sh
# usage: generate.sh [DIRECTORY]
# Compiles the programs and writes their Go wrappers, here or there; called by go generate. The compiler is pinned, so that what it
# writes can be compared byte for byte. Kernel headers for a BPF target still need the machine's asm/ directory.
set -eu
cd "$(dirname "$0")"

: "${CLANG:=clang-14}"
out=${1:-.}
asm=/usr/include/$(uname -m)-linux-gnu

bpf2go() {
	go tool -modfile=../../tools/go.mod bpf2go -cc "$CLANG" -strip "llvm-strip${CLANG#clang}" -target bpfel -tags linux -output-dir "$out" \
		"$@" -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-sign-compare -Wno-unused-parameter -I"$asm"
}

bpf2go -go-package bpf -type record_block -type window_block -type cell -type cpu_stat -type trigger -type sample Sensor sensor.bpf.c
bpf2go -go-package bpf -output-suffix _test -no-global-types -type verdict Probe probe.bpf.c
out=$out/floor
mkdir -p "$out"
bpf2go -go-package floor -type block -type host6 floor floor/floor.bpf.c
bpf2go -go-package floor drive floor/drive.bpf.c
