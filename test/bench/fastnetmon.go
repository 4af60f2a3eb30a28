package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
)

// fastNetMon is FastNetMon Community with AF_PACKET on the rack's uplink, everything off that is not needed to ban by
// packets per second, its timers at their minimum of one second, and gobgpd to announce what it bans.
type fastNetMon struct{}

func (*fastNetMon) name() string { return "fastnetmon" }

// isAnswer: FastNetMon announces the attacked host as a unicast route.
func (*fastNetMon) isAnswer(u tap.Update) bool {
	return u.AFI == 1 && u.SAFI == tap.SAFIUnicast && len(u.Reach) > 0
}

const gobgpdConf = `
[global.config]
  as = %d
  router-id = "%s"
  port = -1
[[neighbors]]
  [neighbors.config]
    neighbor-address = "%s"
    peer-as = %d
  [neighbors.timers.config]
    connect-retry = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-unicast"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-flowspec"
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv6-flowspec"
`

// gobgpAPI is the one address FastNetMon looks for gobgpd at.
const gobgpAPI = "127.0.0.1:50051"

func (f *fastNetMon) start(ctx context.Context, s *lab.Site, dir string) error {
	conf := fmt.Sprintf(gobgpdConf, lab.SiteASN, lab.SiteControlForBIRD, lab.SiteBIRD, lab.SiteBIRDASN)
	if err := os.WriteFile(filepath.Join(dir, "gobgpd.toml"), []byte(conf), 0o644); err != nil {
		return err
	}
	if _, err := s.Control.Start(lab.Command{Argv: []string{"gobgpd", "-f", filepath.Join(dir, "gobgpd.toml"), "--api-hosts", gobgpAPI, "--pprof-disable"}}); err != nil {
		return err
	}
	if err := bridge(s.Rack, s.Control, gobgpAPI); err != nil {
		return err
	}
	if err := s.BIRD.WaitEstablished(ctx); err != nil {
		return err
	}
	_, err := s.Rack.StartFastNetMon(ctx, lab.FastNetMonOptions{
		Interface: s.Uplink.Name, Networks: []netip.Prefix{lab.SiteOwn4}, PPS: thresholdPPS, GoBGP: true,
	})
	return err
}

// bridge makes a TCP address of one namespace's loopback reachable at the same address of another's: FastNetMon watches
// the rack and gobgpd speaks from the control machine, as our controller does. It adds some tens of microseconds.
func bridge(from, to *lab.Namespace, address string) error {
	var l net.Listener
	err := from.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return err
	}
	from.Lab().OnClose(func() { l.Close() })
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			var b net.Conn
			if err := to.Do(func() (err error) { b, err = net.Dial("tcp", address); return err }); err != nil {
				a.Close()
				continue
			}
			from.Lab().OnClose(func() { a.Close(); b.Close() })
			go func() { _, _ = io.Copy(a, b); a.Close() }()
			go func() { _, _ = io.Copy(b, a); b.Close() }()
		}
	}()
	return nil
}
