// Package bpf holds the sensor's kernel programs: their C source, the objects compiled from it, and Go types for what
// they share with user space.
package bpf

//go:generate sh ./generate.sh
