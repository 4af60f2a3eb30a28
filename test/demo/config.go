package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// files are the configurations of the demo: what an operator would write, with paths of the lab.
type files struct {
	controller, sensor, policy string // paths
	socket                     string // of the console
}

const controllerYAML = `# Written by the demo.
name: controller-1
data_dir: %[1]s/controller
listen:
  sensors: "%[2]s:7442"
  console: "%[2]s:7443"
  console_socket: unix://%[1]s/console.sock
  telemetry: 127.0.0.1:7444
tls:
  ca: %[1]s/pki/ca.crt
  cert: %[3]s
  key: %[4]s
network:
  own_prefixes: [%[5]s, "%[6]s"]
  never: [203.0.113.1, "2001:db8:113::1"]
policy: %[1]s/policy.yaml
speaker:
  socket: %[1]s/speaker.sock
  telemetry: 127.0.0.1:7446
  asn: %[7]d
  router_id: %[8]s
  peers:
    - name: edge-bird
      address: %[9]s
      asn: %[10]d
      connect_retry: 1s
    - name: edge-frr
      address: %[11]s
      asn: %[12]d
      connect_retry: 1s
log:
  level: info
  format: text
`

const sensorYAML = `# Written by the demo.
name: rack-1
controllers:
  - address: "%[2]s:7442"
    server_name: controller-1
tls:
  ca: %[1]s/pki/ca.crt
  cert: %[3]s
  key: %[4]s
interfaces:
  - name: %[5]s
    mode: host
state_file: %[1]s/sensor.state
pin: ""
listen:
  telemetry: 127.0.0.1:7445
log:
  level: info
  format: text
`

// certificate is what tmctl pki issue made.
type certificate struct{ Cert, Key string }

// write writes the configurations into the lab's run directory.
func write(s *lab.Site, controller, sensor certificate) (files, error) {
	dir := s.Lab.Dir()
	f := files{
		controller: filepath.Join(dir, "controller.yaml"), sensor: filepath.Join(dir, "sensor.yaml"),
		policy: filepath.Join(dir, "policy.yaml"), socket: filepath.Join(dir, "console.sock"),
	}
	p, err := demoPolicy()
	if err != nil {
		return f, err
	}
	for path, text := range map[string]string{
		f.controller: fmt.Sprintf(controllerYAML, dir, lab.SiteControlForRack, controller.Cert, controller.Key, lab.SiteOwn4, lab.SiteOwn6,
			lab.SiteASN, lab.SiteControlForBIRD, lab.SiteBIRD, lab.SiteBIRDASN, lab.SiteFRR, lab.SiteFRRASN),
		f.sensor: fmt.Sprintf(sensorYAML, dir, lab.SiteControlForRack, sensor.Cert, sensor.Key, s.Uplink.Name),
		f.policy: p,
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return f, err
		}
	}
	return f, nil
}

// demoPolicy is the shipped default policy with what a demo cannot wait for made shorter. Thresholds are as shipped.
func demoPolicy() (string, error) {
	text := policy.Default().Text()
	for _, change := range []struct {
		from, to string
		times    int
	}{
		{"  ttl: 10m\n", "  ttl: 10s\n", 2},
		{"  extend: 5m\n", "  extend: 4s\n", 2},
		{"  end_after: 10s\n", "  end_after: 2s\n", 1},
		// 1 Mbps are 1,950 SYN a second of the 64 bytes sent here: 98 % less than 100,000. The demo wants to show 99.
		{"  - vectors: syn\n    action: rate-limit 1 Mbps\n", "  - vectors: syn\n    action: rate-limit 300 kbps\n", 1},
	} {
		if n := strings.Count(text, change.from); n != change.times {
			return "", fmt.Errorf("policy/default.yaml has %q %d times, the demo expects %d: bring test/demo/config.go up to date", change.from, n, change.times)
		}
		text = strings.ReplaceAll(text, change.from, change.to)
	}
	if _, err := policy.Parse("demo policy", []byte(text)); err != nil {
		return "", err
	}
	return "# The default policy with short lives, for the demo.\n" + text, nil
}
