package app

import (
	"net/netip"

	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/probe"
	"github.com/amooglesoft/trafficmonitor/internal/profile"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// probeSecrets adds SNMP or gNMI to how a router is asked, with the secrets in their files.
func probeSecrets(to *speaker.Probe, p config.Peer, kind profile.Probe, wrong func(key, value string, err error)) {
	s, g := p.Probe.SNMP, p.Probe.GNMI
	address := p.Probe.Address
	if !address.IsValid() {
		address = p.Address
	}
	secret := func(key, path string) string {
		if path == "" {
			return ""
		}
		text, err := config.ReadPassphrase(path)
		if err != nil {
			wrong(key, path, err)
		}
		return text
	}
	if s.On() {
		to.SNMP = &probe.SNMP{
			Address: netip.AddrPortFrom(address, s.Port), Table: kind.SNMP, User: s.User, Auth: s.Auth,
			AuthSecret: secret("snmp.auth_file", s.AuthFile), PrivacySecret: secret("snmp.privacy_file", s.PrivacyFile),
			Community: secret("snmp.community_file", s.CommunityFile),
		}
	}
	if !g.On() {
		return
	}
	to.GNMI = &probe.GNMI{
		Address: netip.AddrPortFrom(address, g.Port), Model: kind.GNMI, User: g.User, Password: secret("gnmi.password_file", g.PasswordFile),
		ServerName: g.ServerName,
	}
	for _, f := range []struct {
		key, path string
		to        *[]byte
	}{{"gnmi.ca_file", g.CAFile, &to.GNMI.CA}, {"gnmi.cert_file", g.CertFile, &to.GNMI.Cert}, {"gnmi.key_file", g.KeyFile, &to.GNMI.Key}} {
		if f.path == "" {
			continue
		}
		text, err := document.ReadFile(f.path)
		if err != nil {
			wrong(f.key, f.path, err)
		}
		*f.to = text
	}
}
