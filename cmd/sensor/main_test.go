package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/daemon"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.yaml", "name: rack1\ncontrollers: [{address: \"127.0.0.1:7443\"}]\ninterfaces: [{name: lo}]\n")
	bad := file("bad.yaml", "name: rack1\ncontrollers: [{address: \"127.0.0.1:7443\"}]\ninterfaces: [{name: lo, mode: banana}]\n")
	for _, tc := range []struct {
		name string
		args []string
		code int
		out  string
	}{
		{"version", []string{"--version"}, 0, "dev"},
		{"help", []string{"--help"}, 0, "usage: sensor"},
		{"check", []string{"--config", good, "--check"}, 0, "configuration is valid"},
		{"dump", []string{"--config", good, "--dump"}, 0, "slots: 4096"},
		{"wrong value", []string{"--config", bad, "--check"}, daemon.ExitUsage, "interfaces[0].mode"},
		{"no file", []string{"--config", filepath.Join(dir, "none"), "--check"}, daemon.ExitUsage, "none"},
		{"unknown flag", []string{"--banana"}, daemon.ExitUsage, "banana"},
		{"detach with check", []string{"detach", "--config", good, "--check"}, daemon.ExitUsage, "neither --check"},
		{"argument", []string{"banana"}, daemon.ExitUsage, `"banana" is not understood`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, err bytes.Buffer
			if code := run(tc.args, &out, &err); code != tc.code || !strings.Contains(out.String()+err.String(), tc.out) {
				t.Errorf("exit %d, want %d with %q:\n%s%s", code, tc.code, tc.out, out.String(), err.String())
			}
		})
	}
}
