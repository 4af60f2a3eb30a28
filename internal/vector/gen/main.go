// Command gen writes the C header of the vector table.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen HEADER")
		os.Exit(2)
	}
	var b bytes.Buffer
	b.WriteString("/* Code generated from internal/vector; DO NOT EDIT. */\n#pragma once\n\n")
	for _, v := range vector.All() {
		fmt.Fprintf(&b, "#define %s %d /* %s */\n", v.Const, v.ID, v.Says)
	}
	fmt.Fprintf(&b, "\n#define VECTOR_COUNT %d /* counters per target and direction, a power of two */\n", vector.Count)
	if err := os.WriteFile(os.Args[1], b.Bytes(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
