package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/daemon"
)

// A speaker that is started again during an attack must announce its journal, whatever was done to the policy meanwhile.
func TestASpeakerDoesNotReadThePolicy(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("policy.yaml", "version: 1\nthreshold: []\n")
	occupied := write("speaker.sock", "not a socket") // ends the speaker where it would begin to serve
	path := write("controller.yaml", fmt.Sprintf(`
data_dir: %[1]s
policy: %[1]s/policy.yaml
network: {own_prefixes: [192.0.2.0/24]}
speaker:
  socket: %[2]s
  telemetry: ""
  asn: 65000
  router_id: 127.0.0.1
  peers: [{name: edge1, address: 127.0.0.1, port: 1, asn: 65001}]
`, dir, occupied))
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"speaker", daemon.ExitFailed, "something else than a socket"},
		{"speaker --check", daemon.ExitUsage, "policy.yaml:2"},
		{"", daemon.ExitUsage, "policy.yaml:2"},
	} {
		var out, errs bytes.Buffer
		code := run(append(strings.Fields(tc.args), "--config", path), &out, &errs)
		if code != tc.code || !strings.Contains(errs.String(), tc.want) {
			t.Errorf("controller %s: exit %d, want %d with %q:\n%s", tc.args, code, tc.code, tc.want, errs.String())
		}
	}
}
