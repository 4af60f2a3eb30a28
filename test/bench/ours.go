package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// ours is a sensor on the rack and a controller with its speaker, with default settings and mutual TLS.
type ours struct{ bin string }

func (*ours) name() string { return "trafficmonitor" }

func (*ours) isAnswer(u tap.Update) bool { return u.SAFI == tap.SAFIFlowSpec && len(u.Reach) > 0 }

const controllerYAML = `
name: controller-1
data_dir: %[1]s/data
listen: {sensors: "%[2]s:7442", console: "", console_socket: "unix://%[1]s/console.sock", telemetry: "127.0.0.1:7444"}
tls: {ca: %[3]s, cert: %[4]s, key: %[5]s}
network: {own_prefixes: [%[6]s, "%[7]s"]}
speaker:
  socket: %[1]s/speaker.sock
  asn: %[8]d
  router_id: %[9]s
  on_stop: withdraw
  peers: [{name: edge, address: %[10]s, asn: %[11]d, connect_retry: 1s}]
`

const sensorYAML = `
name: rack-1
controllers: [{address: "%[2]s:7442", server_name: controller-1}]
tls: {ca: %[3]s, cert: %[4]s, key: %[5]s}
interfaces: [{name: %[6]s}]
state_file: %[1]s/sensor.state
pin: ""
listen: {telemetry: "127.0.0.1:7445"}
`

func (o *ours) start(ctx context.Context, s *lab.Site, dir string) error {
	certs := filepath.Join(dir, "pki")
	if err := pki.CreateCA(certs); err != nil {
		return err
	}
	c, err := pki.Issue(certs, pki.RoleController, "controller-1", []string{"controller-1"})
	if err != nil {
		return err
	}
	x, err := pki.Issue(certs, pki.RoleSensor, "rack-1", nil)
	if err != nil {
		return err
	}
	at := lab.SiteControlForRack
	files := map[string]string{
		"controller.yaml": fmt.Sprintf(controllerYAML, dir, at, c.CA, c.Cert, c.Key, lab.SiteOwn4, lab.SiteOwn6, lab.SiteASN, lab.SiteControlForBIRD, lab.SiteBIRD, lab.SiteBIRDASN),
		"sensor.yaml":     fmt.Sprintf(sensorYAML, dir, at, x.CA, x.Cert, x.Key, s.Uplink.Name),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if _, err := s.Control.Start(lab.Command{Argv: []string{filepath.Join(o.bin, "controller"), "--config", filepath.Join(dir, "controller.yaml")}}); err != nil {
		return err
	}
	if _, err := s.Rack.Start(lab.Command{Argv: []string{filepath.Join(o.bin, "sensor"), "--config", filepath.Join(dir, "sensor.yaml")}}); err != nil {
		return err
	}
	return lab.Until(ctx, "controller and sensor to be ready", func(ctx context.Context) error { return ready(ctx, "unix://"+filepath.Join(dir, "console.sock")) })
}

// ready asks the controller whether it and the sensor are.
func ready(ctx context.Context, socket string) error {
	conn, err := rpc.Dial(socket, pki.Files{})
	if err != nil {
		return err
	}
	defer conn.Close()
	console := pb.NewConsoleServiceClient(conn)
	st, err := console.GetStatus(ctx, &pb.GetStatusRequest{})
	if err != nil {
		return err
	}
	sensors, err := console.ListSensors(ctx, &pb.ListSensorsRequest{})
	switch {
	case err != nil:
		return err
	case len(st.NotReady) > 0 || !st.IsLeader:
		return fmt.Errorf("controller: leads %v, not ready: %v", st.IsLeader, st.NotReady)
	case len(sensors.Sensors) == 0 || sensors.Sensors[0].Directive.GetRevision() == 0:
		return errors.New("the sensor follows no directive yet")
	}
	return nil
}
