package tmctl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProfiles(t *testing.T) {
	r := run(t.Context(), nil, "profiles")
	if r.code != ExitOK || !strings.Contains(r.stdout, "ios-xr-ncs5500") || !strings.Contains(r.stdout, "3000 entries") {
		t.Errorf("%+v", r)
	}
	r = run(t.Context(), nil, "profiles", "extreme-slx")
	for _, want := range []string{"match.tcp_flags", "fin, syn, rst, psh, ack, urg", "ECE and CWR cannot be tested. [UNCONFIRMED: told by others"} {
		if r.code != ExitOK || !strings.Contains(r.stdout, want) {
			t.Errorf("nothing says %q:\n%s", want, r.stdout)
		}
	}
	r = run(t.Context(), nil, "profiles", "junosmx")
	if r.code != ExitUsage || !strings.Contains(r.stderr, `did you mean "junos-mx"`) {
		t.Errorf("%+v", r)
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "edge.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("name: edge\nplatform: Ours\nroom: {entries: 7}\nfacts:\n  - {about: room.entries, says: Seen., source: own, where: lab}\n")
	r = run(t.Context(), nil, "profiles", "edge", "--dir", dir, "-o", "json")
	var out profileOut
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || out.Keys["room.entries"] != "7" || out.File != file || out.Facts[0].Source != "own" {
		t.Errorf("%v %+v", err, r)
	}
	write("name: edge\n")
	if r = run(t.Context(), nil, "profiles", "--dir", dir); r.code != ExitFailed || !strings.Contains(r.stderr, "edge.yaml:1: platform: is missing") {
		t.Errorf("%+v", r)
	}
}
