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
