package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/amooglesoft/trafficmonitor/test/kernels/guest"
)

// The paths inside the machine are those of the module, below this.
const source = "/src"

// verifierRecord is what tests in the sensor's bpf package write with -update.
const verifierRecord = "testdata/verifier.json"

// binary is a file built for the machine.
type binary struct {
	pkg  string // path in the module
	file string
}

// binaries are what a machine needs.
type binaries struct {
	init, sensor binary
	tests        []binary
}

// build compiles everything, static.
func build(ctx context.Context) (*binaries, error) {
	b := &binaries{
		init:   binary{"test/kernels/init", ""},
		sensor: binary{"cmd/sensor", ""},
		tests: []binary{
			{"internal/sensor/bpf", ""},
			{"internal/sensor/classify", ""},
			{"internal/sensor", ""},
			{"test/kernels/sensor", ""}, // the program itself on a wire
		},
	}
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	compile := func(b *binary, command ...string) error {
		b.file = filepath.Join(bin, strings.ReplaceAll(b.pkg, "/", "-"))
		args := append(command, "-trimpath", "-ldflags=-s -w", "-o", b.file, "./"+b.pkg)
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
		}
		return nil
	}
	for _, program := range []*binary{&b.init, &b.sensor} {
		if err := compile(program, "build"); err != nil {
			return nil, err
		}
	}
	for i := range b.tests {
		if err := compile(&b.tests[i], "test", "-c"); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// planOf says what a machine does.
func planOf(b *binaries, only string, update bool) guest.Plan {
	var p guest.Plan
	for _, t := range b.tests {
		test := guest.Test{
			Package: t.pkg,
			Binary:  path.Join("/bin", filepath.Base(t.file)),
			Dir:     path.Join(source, t.pkg),
			Args:    []string{"-test.v=test2json", "-test.timeout=15m"},
			Env:     []string{"TM_SENSOR=/bin/sensor"},
		}
		if only != "" {
			test.Args = append(test.Args, "-test.run="+only)
		}
		if update && t.pkg == "internal/sensor/bpf" {
			test.Args = append(test.Args, "-update")
			test.Return = []string{verifierRecord}
		}
		p.Tests = append(p.Tests, test)
	}
	return p
}
