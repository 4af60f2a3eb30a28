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

	const dns = "destination 203.0.113.5 protocol udp port 53,123 destination-port 50-60 then discard"
	r = run(t.Context(), nil, append([]string{"profiles", "junos-mx"}, strings.Fields(dns)...)...)
	if want := `destination 203.0.113.5/32 protocol udp destination-port 53 then discard
destination 203.0.113.5/32 protocol udp destination-port 50-60 source-port 53,123 then discard

entries of hardware, as the profile counts: 2
`; r.code != ExitOK || r.stdout != want {
		t.Errorf("%+v", r)
	}
	const both = "destination 203.0.113.5 protocol udp source-port 53 destination-port 53 then discard"
	r = run(t.Context(), nil, "profiles", "frr", both)
	if r.code != ExitFailed || !strings.Contains(r.stderr, "frr would not get it: the router does not take source-port together with destination-port") {
		t.Errorf("%+v", r)
	}
	r = run(t.Context(), nil, "profiles", "frr", both, "--widen", "destination-port")
	if r.code != ExitOK || !strings.Contains(r.stdout, "hits more than was asked for: destination-port 53 is not matched there") {
		t.Errorf("%+v", r)
	}
	for _, wrong := range [][]string{{"profiles", "frr", "destination"}, {"profiles", "frr", both, "--widen", "destination"}} {
		if r = run(t.Context(), nil, wrong...); r.code != ExitUsage {
			t.Errorf("%v: %+v", wrong, r)
		}
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
