package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
)

const (
	sensorUnit     = "trafficmonitor-sensor"
	controllerUnit = "trafficmonitor-controller"
	speakerUnit    = "trafficmonitor-speaker"
)

// host is a machine of the site whose process 1 is systemd, with everything installed.
type host struct {
	s *system
	*lab.Systemd
}

// boot boots a namespace and does what docs/quickstart.md says under "As services".
func (s *system) boot(n *lab.Namespace, files string) host {
	s.t.Helper()
	m, err := n.StartSystemd(within(s.t, patience), files)
	if err != nil {
		s.t.Fatal(err)
	}
	h := host{s, m}
	h.run("systemd-sysusers", "trafficmonitor.conf")
	h.run("sh", "-c", "chgrp -R trafficmonitor /etc/trafficmonitor && chmod -R g+rX,o= /etc/trafficmonitor")
	return h
}

func (h host) run(argv ...string) string {
	h.s.t.Helper()
	out, err := h.Run(within(h.s.t, patience), argv...)
	if err != nil {
		journal, _ := h.Run(context.WithoutCancel(h.s.t.Context()), "journalctl", "--no-pager", "--output=cat", "--lines=40")
		h.s.t.Fatalf("%v\n%s", err, journal)
	}
	return out
}

func (h host) show(unit string, properties ...string) map[string]string {
	h.s.t.Helper()
	values, err := h.Show(within(h.s.t, patience), unit, properties...)
	if err != nil {
		h.s.t.Fatal(err)
	}
	return values
}

// becomes waits until a unit has these properties, given as KEY=VALUE, and returns its main process.
func (h host) becomes(unit string, want ...string) (pid string) {
	h.s.t.Helper()
	eventually(h.s.t, fmt.Sprintf("%s to become %v", unit, want), func(ctx context.Context) error {
		have, err := h.Show(ctx, unit, "ActiveState", "SubState", "Result", "NRestarts", "MainPID", "StatusText")
		if err != nil {
			return err
		}
		for _, w := range want {
			if key, value, _ := strings.Cut(w, "="); have[key] != value {
				return fmt.Errorf("it is %v", have)
			}
		}
		pid = have["MainPID"]
		return nil
	})
	return pid
}

// confined checks what the main process of a unit may do; capabilities are the effective ones, in hexadecimal.
func (h host) confined(unit, capabilities string) {
	h.s.t.Helper()
	uid := strings.TrimSpace(h.run("id", "-u", "trafficmonitor"))
	pid := h.show(unit, "MainPID")["MainPID"]
	eventually(h.s.t, unit+" to be confined", func(ctx context.Context) error {
		text, err := h.Run(ctx, "cat", "/proc/"+pid+"/status")
		have := map[string]string{}
		for line := range strings.Lines(text) {
			key, value, _ := strings.Cut(line, ":")
			have[key] = strings.Join(strings.Fields(value), " ")
		}
		for key, want := range map[string]string{
			"Uid": strings.Join([]string{uid, uid, uid, uid}, " "), "CapEff": capabilities, "CapPrm": capabilities, "NoNewPrivs": "1", "Seccomp": "2",
		} {
			if have[key] != want {
				err = errors.Join(err, fmt.Errorf("%s is %q, want %q", key, have[key], want))
			}
		}
		return err
	})
}

// TestUnderSystemd runs the units of deploy/systemd under a real systemd, the controller's and the speaker's on one machine and the
// sensor's on another: confined as they are, everything has to work.
func TestUnderSystemd(t *testing.T) {
	t.Parallel()
	need(t)
	lab.NeedSystemd(t)
	s := newSite(t, "systemd", lab.SiteOptions{NoFRR: true, NoEnforce: true}, settings{})
	if _, _, err := s.Lab.Link(lab.End{In: s.Rack, Name: "mirror0"}, lab.End{In: s.Edge, Name: "span0"}); err != nil {
		t.Fatal(err)
	}
	files := filepath.Join(s.dir, "files")
	for _, name := range []string{"controller", "sensor", "tmctl"} {
		program(t, name)
	}
	install := exec.Command("../../scripts/install.sh", binDir, files)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
	etc := filepath.Join(files, "etc", "trafficmonitor")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t, filepath.Join(etc, "tls"))
	ca.issue("controller", "controller-1", lab.SiteControlForRack.String())
	ca.issue("sensor", "rack-1")
	for name, text := range map[string]string{
		"controller.yaml": fmt.Sprintf(`name: controller-1
listen: {sensors: "%s:7442", console: "127.0.0.1:7443", telemetry: "127.0.0.1:7444"}
tls: {ca: tls/ca.crt, cert: tls/controller-1.crt, key: tls/controller-1.key}
network: {own_prefixes: [%s, "%s"]}
policy: ""
speaker:
  spawn: false
  asn: %d
  router_id: 10.66.0.1
  peers: [{name: bird, address: %s, asn: %d, connect_retry: 1s}]
`, lab.SiteControlForRack, lab.SiteOwn4, lab.SiteOwn6, lab.SiteASN, lab.SiteBIRD, lab.SiteBIRDASN),
		"sensor.yaml": fmt.Sprintf(`name: rack-1
controllers: [{address: "%s:7442"}]
tls: {ca: tls/ca.crt, cert: tls/rack-1.crt, key: tls/rack-1.key}
interfaces: [{name: %s, mode: host}, {name: mirror0, mode: mirror}]
`, lab.SiteControlForRack, s.Uplink.Name),
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	control, rack := s.boot(s.Control, files), s.boot(s.Rack, files)

	s.run("start", func(t *testing.T) {
		for h, units := range map[host][]string{control: {controllerUnit, speakerUnit}, rack: {sensorUnit}} {
			for _, unit := range units {
				if out := h.run("systemd-analyze", "verify", "--man=no", unit+".service"); out != "" {
					t.Errorf("systemd finds fault with %s:\n%s", unit, out)
				}
			}
			h.run("systemctl", "start", units[0]) // the controller's wants the speaker's
		}
		control.becomes(speakerUnit, "SubState=running", "NRestarts=0")
		control.becomes(controllerUnit, "SubState=running", "NRestarts=0")
		rack.becomes(sensorUnit, "SubState=running", "NRestarts=0")
		control.confined(controllerUnit, "0000000000000000")
		control.confined(speakerUnit, "0000000000000000")
		rack.confined(sensorUnit, "0000000000001000") // CAP_NET_ADMIN
	})

	s.run("announce, and go on after a crash", func(t *testing.T) {
		s.bird.established()
		const rule = "destination 203.0.113.10/32 protocol udp source-port 53 then discard"
		control.run("tmctl", "announce", rule, "--ttl", "10m", "--reason", "e2e")
		s.bird.holds(rule)
		// As after a panic: the Go runtime ends with 2.
		for _, unit := range []string{speakerUnit, controllerUnit} {
			control.run("systemctl", "kill", "--kill-whom=main", "--signal=ABRT", unit)
			control.becomes(unit, "SubState=running", "NRestarts=1")
			if journal := control.run("journalctl", "--no-pager", "--output=cat", "--unit="+unit); !strings.Contains(journal, "goroutine 1 ") || !strings.Contains(journal, "status=2/INVALIDARGUMENT") {
				t.Errorf("%s: no goroutines in the journal, or another code than 2:\n%s", unit, journal)
			}
		}
		s.bird.holds(rule)
		eventually(t, "the controller to withdraw", func(ctx context.Context) error {
			_, err := control.Run(ctx, "tmctl", "withdraw", "--all", "--reason", "e2e")
			return err
		})
		s.bird.holds()
	})

	packets := 0.0
	// send sends packets to the victim, and counts waits until the sensor has counted all that were sent since it was started first.
	send := func() {
		s.t.Helper()
		template, err := flood.DNSAnswers(lab.SiteVictim4, lab.SiteSpoofed4, 128)
		if err != nil {
			s.t.Fatal(err)
		}
		f, err := s.AttackerOut.Flood(s.EdgeIn, flood.Options{Template: template, PPS: 5000, Packets: 1000, Duration: 10 * time.Second})
		if err != nil {
			s.t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Run(within(s.t, patience)); err != nil {
			s.t.Fatal(err)
		}
		packets += 1000
	}
	counts := func() {
		s.t.Helper()
		eventually(s.t, fmt.Sprintf("%v packets to be counted", packets), func(context.Context) error {
			n, err := metric(s.Rack, "trafficmonitor_sensor_packets_total")
			if err == nil && n < packets {
				err = fmt.Errorf("%v are", n)
			}
			return err
		})
	}

	s.run("sensor", func(t *testing.T) {
		send()
		counts()
		eventually(t, "the controller to know the sensor", func(ctx context.Context) error {
			out, err := control.Run(ctx, "tmctl", "sensors")
			if err == nil && !strings.Contains(out, "rack-1") {
				err = errors.New(out)
			}
			return err
		})
		for _, series := range []string{`{interface="` + s.Uplink.Name + `",mode="host"}`, `{interface="mirror0",mode="mirror"}`} {
			if n, err := metric(s.Rack, "trafficmonitor_sensor_interface_attached"+series); err != nil || n != 1 {
				t.Errorf("attached to %s: %v (%v)", series, n, err)
			}
		}
		if status := rack.show(sensorUnit, "StatusText")["StatusText"]; !strings.Contains(status, s.Uplink.Name) {
			t.Errorf("the unit's status is %q", status)
		}
		pid := rack.show(sensorUnit, "MainPID")["MainPID"]
		rack.run("systemctl", "reload", sensorUnit)
		if now := rack.becomes(sensorUnit, "SubState=running", "NRestarts=0"); now != pid {
			t.Errorf("reloaded, process %s is process %s", pid, now)
		}
	})

	s.run("killed, the sensor comes again and has counted meanwhile", func(t *testing.T) {
		rack.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", sensorUnit)
		send()
		rack.becomes(sensorUnit, "SubState=running", "NRestarts=1")
		counts()
	})

	s.run("stuck, the sensor is ended by the watchdog", func(t *testing.T) {
		rack.run("sh", "-c", "mkdir -p /run/systemd/system/"+sensorUnit+".service.d && printf '[Service]\\nWatchdogSec=2s\\nTimeoutAbortSec=1s\\n' > /run/systemd/system/"+sensorUnit+".service.d/fast.conf")
		rack.run("systemctl", "daemon-reload")
		rack.run("systemctl", "restart", sensorUnit)
		pid := rack.becomes(sensorUnit, "SubState=running")
		before, err := strconv.Atoi(rack.show(sensorUnit, "NRestarts")["NRestarts"])
		if err != nil {
			t.Fatal(err)
		}
		rack.run("kill", "-STOP", pid)
		send()
		if now := rack.becomes(sensorUnit, "SubState=running", fmt.Sprintf("NRestarts=%d", before+1)); now == pid {
			t.Errorf("process %s goes on", pid)
		}
		if journal := rack.run("journalctl", "--no-pager", "--output=cat", "--unit="+sensorUnit); !strings.Contains(journal, "Watchdog timeout") {
			t.Errorf("no word of the watchdog in the journal:\n%s", journal)
		}
		counts()
	})

	s.run("a wrong file does not make it try again and again", func(t *testing.T) {
		rack.run("sh", "-c", "echo 'colour: red' >> /etc/trafficmonitor/sensor.yaml")
		if _, err := rack.Run(within(t, patience), "systemctl", "restart", sensorUnit); err == nil {
			t.Error("started with a wrong file")
		}
		before := rack.show(sensorUnit, "NRestarts")["NRestarts"]
		rack.becomes(sensorUnit, "ActiveState=failed", "Result=exit-code", "NRestarts="+before)
		if journal := rack.run("journalctl", "--no-pager", "--output=cat", "--lines=20", "--unit="+sensorUnit); !strings.Contains(journal, "colour") {
			t.Errorf("the journal does not say what is wrong:\n%s", journal)
		}
		send()
		rack.run("sed", "-i", "/colour/d", "/etc/trafficmonitor/sensor.yaml")
		rack.run("systemctl", "start", sensorUnit)
		counts()
	})

	s.run("stop and detach", func(t *testing.T) {
		rack.run("systemctl", "stop", sensorUnit)
		if pins := rack.run("ls", "/sys/fs/bpf/trafficmonitor"); strings.TrimSpace(pins) == "" {
			t.Error("stopped, the sensor has no pins")
		}
		rack.run("sensor", "detach", "--config", "/etc/trafficmonitor/sensor.yaml")
		if pins := rack.run("find", "/sys/fs/bpf/trafficmonitor", "-mindepth", "1"); pins != "" {
			t.Errorf("detached, there are\n%s", pins)
		}
		control.run("systemctl", "stop", controllerUnit, speakerUnit)
		for _, unit := range []string{controllerUnit, speakerUnit} {
			control.becomes(unit, "ActiveState=inactive", "Result=success")
		}
	})
}
