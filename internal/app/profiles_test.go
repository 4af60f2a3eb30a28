package app

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

func TestPeersHaveProfiles(t *testing.T) {
	dir := t.TempDir()
	own := "name: edge\nplatform: Ours\nroom: {entries: 100}\nfacts:\n  - {about: room.entries, says: Seen., source: own, where: lab}\n"
	if err := os.WriteFile(filepath.Join(dir, "edge.yaml"), []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	peer := func(name, profile string) config.Peer {
		return config.Peer{Name: name, Address: netip.MustParseAddr("192.0.2.1"), ASN: 64512, Profile: profile}
	}
	c := config.DefaultController()
	c.Speaker.Profiles = dir
	wide := peer("c", "frr")
	wide.Widen, wide.MaxCost = []string{"dscp"}, 7
	c.Speaker.Peers = []config.Peer{peer("a", "edge"), peer("b", "generic"), wide}
	o, err := speakerOptions(c, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if p := o.Peers[0].Profile; p.Name != "edge" || p.Budget.Shared != 100 {
		t.Errorf("%+v", p)
	}
	if p := o.Peers[1].Profile; p.Name != "generic" || p.Budget != (compile.Budget{}) {
		t.Errorf("%+v", p)
	}
	if p := o.Peers[2]; !p.Profile.Unmixed || p.Widen[0] != "dscp" || p.MaxCost != 7 {
		t.Errorf("%+v", p)
	}

	c.Speaker.Peers = []config.Peer{peer("a", "egde"), peer("b", "quagga")}
	_, err = speakerOptions(c, "test", slog.New(slog.DiscardHandler))
	for _, want := range []string{
		`speaker.peers[0].profile: "egde" is not a router profile; did you mean "edge"?`,
		`speaker.peers[1].profile: "quagga" is not a router profile; there are arista-eos`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing says %s: %v", want, err)
		}
	}
	// What a group says is told once, and there.
	c.Speaker.PeerGroups = []config.PeerGroup{{Name: "g", Of: config.Peer{Profile: "egde", MD5File: filepath.Join(dir, "absent")}}}
	grouped := func(name, profile, md5 string) config.Peer {
		p := peer(name, profile)
		p.Group, p.MD5File = "g", md5
		return p
	}
	c.Speaker.Peers = []config.Peer{grouped("a", "egde", filepath.Join(dir, "absent")), grouped("b", "egde", ""), grouped("c", "quagga", filepath.Join(dir, "absent"))}
	_, err = speakerOptions(c, "test", slog.New(slog.DiscardHandler))
	if err == nil || strings.Count(err.Error(), "\n") != 2 || !strings.Contains(err.Error(), "speaker.peer_groups[0].profile: \"egde\"") ||
		!strings.Contains(err.Error(), "speaker.peer_groups[0].md5_file: ") || !strings.Contains(err.Error(), "speaker.peers[2].profile: \"quagga\"") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "edge.yaml"), []byte("name: edge\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = speakerOptions(c, "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "edge.yaml:1: platform: is missing") {
		t.Errorf("got %v", err)
	}
}

// A group names one path, and each router has a secret of its own.
func TestSecretsOfAGroup(t *testing.T) {
	dir := t.TempDir()
	for name, secret := range map[string]string{"a.md5": "one", "b.md5": "two", "192.0.2.1.auth": "a passphrase", "192.0.2.2.auth": "another passphrase", "privacy": "for all of them"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "controller.yaml")
	options := func(more string) (speaker.Options, error) {
		t.Helper()
		text := `
network: {own_prefixes: [203.0.113.0/24]}
data_dir: ` + dir + `
speaker:
  asn: 64512
  router_id: 203.0.113.2
  peer_groups:
    - name: g
      asn: 64512
      profile: junos-mx
      md5_file: "{name}.md5"
      probe: {snmp: {user: tm, auth_file: "{address}.auth", privacy_file: privacy}}
  peers:
    - {name: a, group: g, address: 192.0.2.1}
    - {name: b, group: g, address: 192.0.2.2}
` + more
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.LoadController(file)
		if err != nil {
			return speaker.Options{}, err
		}
		return speakerOptions(c, "test", slog.New(slog.DiscardHandler))
	}
	o, err := options("")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][3]string{{"one", "a passphrase", "for all of them"}, {"two", "another passphrase", "for all of them"}} {
		p := o.Peers[i]
		if got := [3]string{p.MD5, p.Probe.SNMP.AuthSecret, p.Probe.SNMP.PrivacySecret}; got != want {
			t.Errorf("%s: %q, want %q", p.Name, got, want)
		}
	}
	// Each file that is not there is told, at the group's key.
	_, err = options("    - {name: c, group: g, address: 192.0.2.3}\n    - {name: d, group: g, address: 192.0.2.4}\n")
	for _, want := range []string{"c.md5", "d.md5"} {
		if err == nil || !strings.Contains(err.Error(), "speaker.peer_groups[0].md5_file: ") || !strings.Contains(err.Error(), filepath.Join(dir, want)) {
			t.Errorf("nothing says %s: %v", want, err)
		}
	}
	_, err = options(`    - {name: e, group: g, address: 192.0.2.5, md5_file: "{nam}.md5"}` + "\n")
	if err == nil || !strings.Contains(err.Error(), "speaker.peers[2].md5_file: ") || !strings.Contains(err.Error(), "nothing stands for {nam}: use {name} or {address}") {
		t.Errorf("got %v", err)
	}
}

func TestProbeOfAGroup(t *testing.T) {
	c := config.DefaultController()
	run := []string{"ssh", "tm@{address}", "-l{name}", "{other}"}
	c.Speaker.Peers = []config.Peer{
		{Name: "a", Group: "g", Address: netip.MustParseAddr("192.0.2.1"), Probe: config.Probe{Run: run}},
		{Name: "b", Address: netip.MustParseAddr("2001:db8::1"), Probe: config.Probe{Run: run}},
		{Name: "c", Address: netip.MustParseAddr("192.0.2.3")},
	}
	o, err := speakerOptions(c, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"ssh tm@192.0.2.1 -la {other}", "ssh tm@2001:db8::1 -lb {other}", ""} {
		if got := strings.Join(o.Peers[i].Probe.Argv, " "); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	if o.Peers[0].Group != "g" || run[1] != "tm@{address}" {
		t.Errorf("%+v, %v", o.Peers[0], run)
	}
}
