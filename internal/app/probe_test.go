package app

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// Secrets come from files, the table and the model from the profile, the address from the session where none is given.
func TestProbesBySNMPAndGNMI(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := pki.CreateCA(dir); err != nil {
		t.Fatal(err)
	}
	c := config.DefaultController()
	c.Speaker.ASN, c.Speaker.RouterID = 64512, netip.MustParseAddr("192.0.2.9")
	snmp := config.ProbeSNMP{Port: 161, User: "tm", Auth: "sha256", AuthFile: file("auth", "an auth secret\n"), PrivacyFile: file("privacy", "a privacy secret\n")}
	gnmi := config.ProbeGNMI{Port: 9339, CAFile: filepath.Join(dir, "ca.crt"), ServerName: "{name}.example.net", User: "tm", PasswordFile: file("password", "a password\n")}
	peer := func(name, profile, address string, p config.Probe) config.Peer {
		p.Interval, p.Timeout = 30e9, 10e9
		return config.Peer{Name: name, Address: netip.MustParseAddr(address), ASN: 64512, Profile: profile, Probe: p}
	}
	c.Speaker.Peers = []config.Peer{
		peer("a", "junos-mx", "192.0.2.1", config.Probe{SNMP: snmp, Address: netip.MustParseAddr("198.51.100.1")}),
		peer("b", "ios-xr-asr9000", "2001:db8::2", config.Probe{GNMI: gnmi}),
		peer("c", "junos-mx", "192.0.2.3", config.Probe{SNMP: config.ProbeSNMP{Port: 1161, CommunityFile: file("community", "sesame\n"), Cleartext: true}}),
	}
	o, err := speakerOptions(c, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if s := o.Peers[0].Probe.SNMP; s == nil || s.Address.String() != "198.51.100.1:161" || s.Table != "junos" || s.User != "tm" || s.Auth != "sha256" ||
		s.AuthSecret != "an auth secret" || s.PrivacySecret != "a privacy secret" || s.Check() != nil {
		t.Errorf("%+v", s)
	}
	if g := o.Peers[1].Probe.GNMI; g == nil || g.Address.String() != "[2001:db8::2]:9339" || g.Model != "ios-xr" || g.Password != "a password" ||
		g.ServerName != "b.example.net" || g.Check() != nil {
		t.Errorf("%+v", g)
	}
	if s := o.Peers[2].Probe.SNMP; s == nil || s.Address.String() != "192.0.2.3:1161" || s.Community != "sesame" || s.Check() != nil {
		t.Errorf("%+v", s)
	}

	// What is wrong is told where it stands, once, and without a secret.
	snmp.AuthFile, gnmi.CAFile = filepath.Join(dir, "absent"), filepath.Join(dir, "absent.crt")
	c.Speaker.PeerGroups = []config.PeerGroup{{Name: "g", Of: config.Peer{Probe: config.Probe{SNMP: snmp}}}}
	c.Speaker.Peers = []config.Peer{
		peer("a", "junos-mx", "192.0.2.1", config.Probe{SNMP: snmp}),
		peer("b", "junos-mx", "192.0.2.2", config.Probe{SNMP: snmp}),
		peer("c", "ios-xr-asr9000", "192.0.2.3", config.Probe{GNMI: gnmi}),
	}
	c.Speaker.Peers[0].Group, c.Speaker.Peers[1].Group = "g", "g"
	_, err = speakerOptions(c, "test", slog.New(slog.DiscardHandler))
	for _, want := range []string{"speaker.peer_groups[0].probe.snmp.auth_file: ", "speaker.peers[2].probe.gnmi.ca_file: "} {
		if err == nil || strings.Count(err.Error(), want) != 1 || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q is not told once: %v", want, err)
		}
	}

	// A profile without a table is no way to ask.
	c.Speaker.PeerGroups = nil
	c.Speaker.Peers = []config.Peer{peer("a", "arista-eos", "192.0.2.1", config.Probe{SNMP: config.ProbeSNMP{Port: 161, CommunityFile: file("community", "sesame\n"), Cleartext: true}})}
	o, err = speakerOptions(c, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), "profile arista-eos") || !strings.Contains(err.Error(), "name a profile with probe.snmp") || strings.Contains(err.Error(), "sesame") {
		t.Errorf("got %v", err)
	}
}
