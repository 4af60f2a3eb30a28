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
	if err := os.WriteFile(filepath.Join(dir, "edge.yaml"), []byte("name: edge\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = speakerOptions(c, "test", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "edge.yaml:1: platform: is missing") {
		t.Errorf("got %v", err)
	}
}
