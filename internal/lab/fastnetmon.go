package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// FastNetMonOptions say what FastNetMon watches.
type FastNetMonOptions struct {
	Interface string
	Networks  []netip.Prefix
	// PPS is the number of packets per second from which it bans a host.
	PPS int
	// GoBGP announces bans through a gobgpd at 127.0.0.1:50051.
	GoBGP bool
}

// FastNetMon Community with AF_PACKET, everything off that is not needed to ban by packets per second, its timers at
// their minimum of one second.
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
gobgp = %[4]s
gobgp_announce_host = on
gobgp_next_hop = 192.0.2.1
gobgp_community_host = 65535:666
enable_api = off
pid_path = %[1]s/fastnetmon.pid
cli_stats_file_path = %[1]s/fastnetmon.dat
cli_stats_ipv6_file_path = %[1]s/fastnetmon_ipv6.dat
`

// StartFastNetMon starts FastNetMon in the namespace and returns when it captures and has computed its first speeds.
func (n *Namespace) StartFastNetMon(ctx context.Context, o FastNetMonOptions) (*Process, error) {
	dir := filepath.Join(n.lab.Dir(), n.name+"-fastnetmon")
	// Statistics of an earlier one would be taken for its own.
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
		return nil, err
	}
	var networks strings.Builder
	for _, p := range o.Networks {
		fmt.Fprintln(&networks, p)
	}
	onOff := map[bool]string{true: "on", false: "off"}
	for name, text := range map[string]string{
		"fastnetmon.conf":    fmt.Sprintf(fastNetMonConf, dir, o.PPS, o.Interface, onOff[o.GoBGP]),
		"networks_list":      networks.String(),
		"networks_whitelist": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	running := make(chan struct{})
	var once sync.Once
	p, err := n.Start(Command{
		Argv: []string{"fastnetmon", "--configuration_file", filepath.Join(dir, "fastnetmon.conf"), "--log_to_console", "--disable_pid_logic"},
		OnLine: func(line string) {
			if strings.Contains(line, "AF_PACKET") || strings.Contains(line, "afpacket") || strings.Contains(line, "Started capture") {
				once.Do(func() { close(running) })
			}
		},
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-running:
	case <-p.Done():
		return nil, fmt.Errorf("fastnetmon ended: %w", errors.Join(p.Err(), errors.New("see its log")))
	case <-ctx.Done():
		return nil, fmt.Errorf("fastnetmon does not begin to capture: %w", ctx.Err())
	}
	// Its statistics appear with the first round of its speed calculation; before that it would miss an attack's begin.
	return p, Until(ctx, "fastnetmon's statistics", func(context.Context) error {
		info, err := os.Stat(filepath.Join(dir, "fastnetmon.dat"))
		if err != nil || info.Size() == 0 {
			return errors.New("not written yet")
		}
		return nil
	})
}
