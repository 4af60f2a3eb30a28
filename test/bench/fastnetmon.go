package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

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

const fastNetMonConf = `
disable_usage_report = on
enable_ban = on
process_incoming_traffic = on
process_outgoing_traffic = off
ban_for_pps = on
ban_for_bandwidth = off
ban_for_flows = off
threshold_pps = %[2]d
ban_time = 60
unban_only_if_attack_finished = off
ban_details_records_count = 1
check_period = 1
average_calculation_time = 1
speed_calculation_delay = 1
enable_connection_tracking = off
mirror_afpacket = on
interfaces = %[3]s
monitor_local_ip_addresses = off
networks_list_path = %[1]s/networks_list
white_list_path = %[1]s/networks_whitelist
notify_script_path = /bin/true
gobgp = on
gobgp_announce_host = on
gobgp_next_hop = 192.0.2.1
gobgp_community_host = 65535:666
enable_api = off
pid_path = %[1]s/fastnetmon.pid
cli_stats_file_path = %[1]s/fastnetmon.dat
cli_stats_ipv6_file_path = %[1]s/fastnetmon_ipv6.dat
`

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
	for name, text := range map[string]string{
		"fastnetmon.conf":    fmt.Sprintf(fastNetMonConf, dir, thresholdPPS, s.Uplink.Name),
		"networks_list":      lab.SiteOwn4.String() + "\n",
		"networks_whitelist": "",
		"gobgpd.toml":        fmt.Sprintf(gobgpdConf, lab.SiteASN, lab.SiteControlForBIRD, lab.SiteBIRD, lab.SiteBIRDASN),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
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
	// It says so once a second when it has begun to compute speeds; before that it would miss the attack's begin.
	running := make(chan struct{})
	var once sync.Once
	p, err := s.Rack.Start(lab.Command{
		Argv: []string{"fastnetmon", "--configuration_file", filepath.Join(dir, "fastnetmon.conf"), "--log_to_console", "--disable_pid_logic"},
		OnLine: func(line string) {
			if strings.Contains(line, "AF_PACKET") || strings.Contains(line, "afpacket") || strings.Contains(line, "Started capture") {
				once.Do(func() { close(running) })
			}
		},
	})
	if err != nil {
		return err
	}
	select {
	case <-running:
	case <-p.Done():
		return fmt.Errorf("fastnetmon ended: %w", errors.Join(p.Err(), errors.New("see its log")))
	case <-ctx.Done():
		return fmt.Errorf("fastnetmon does not begin to capture: %w", ctx.Err())
	}
	// Its statistics appear with the first round of its speed calculation, and again with the third they are warm.
	return lab.Until(ctx, "fastnetmon's statistics", func(context.Context) error {
		info, err := os.Stat(filepath.Join(dir, "fastnetmon.dat"))
		if err != nil || info.Size() == 0 {
			return errors.New("not written yet")
		}
		return nil
	})
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
