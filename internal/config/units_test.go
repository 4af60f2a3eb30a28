package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestUnitsFitTheConfiguration: the systemd units start what there is, and give it the folders the defaults name.
func TestUnitsFitTheConfiguration(t *testing.T) {
	c := DefaultController()
	if c.DataDir != "/var/lib/trafficmonitor" || c.Speaker.Socket != "/run/trafficmonitor/speaker.sock" || c.Listen.ConsoleSocket.Path != "/run/trafficmonitor/console.sock" {
		t.Fatal("the defaults name other folders than StateDirectory and RuntimeDirectory of the units")
	}
	common := []string{"Type=notify", "User=trafficmonitor", "StateDirectory=trafficmonitor", "NoNewPrivileges=yes", "ProtectSystem=strict", "Restart=always", "RestartPreventExitStatus=78"}
	for name, lines := range map[string][]string{
		"controller": {"ExecStart=/usr/local/bin/controller --config /etc/trafficmonitor/controller.yaml", "RuntimeDirectory=trafficmonitor", "RuntimeDirectoryPreserve=yes", "CapabilityBoundingSet="},
		"speaker":    {"ExecStart=/usr/local/bin/controller speaker --config /etc/trafficmonitor/controller.yaml", "RuntimeDirectory=trafficmonitor", "RuntimeDirectoryPreserve=yes", "CapabilityBoundingSet="},
		"sensor":     {"ExecStart=/usr/local/bin/sensor --config /etc/trafficmonitor/sensor.yaml", "CapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN CAP_PERFMON", "WatchdogSec=30s", "ExecReload=/bin/kill -HUP $MAINPID", "ReadWritePaths=-/sys/fs/bpf/trafficmonitor"},
	} {
		b, err := os.ReadFile("../../deploy/systemd/trafficmonitor-" + name + ".service")
		if err != nil {
			t.Fatal(err)
		}
		have := strings.Split(string(b), "\n")
		for _, line := range append(lines, common...) {
			if !slices.Contains(have, line) {
				t.Errorf("the unit of the %s lacks %q", name, line)
			}
		}
	}
	example, err := LoadController("../../deploy/controller.example.yaml")
	if err != nil || example.Speaker.Spawn {
		t.Errorf("the example spawns a speaker, though a unit starts one (%v)", err)
	}
}
