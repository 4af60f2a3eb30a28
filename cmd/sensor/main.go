// Command sensor counts the packets of a rack in the kernel and streams what it counted to the controllers.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/daemon"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/sensor"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry"
)

// version is set by the build.
var version = "dev"

const usage = `usage: sensor --config FILE [--check | --dump]
       sensor detach [--config FILE]
       sensor --pcap FILE [--targets PREFIXES] [--pcap-engine bpf|go|both] [--json]
       sensor --version

`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	if wantsCapture(args) {
		return runCapture(args, stdout, stderr)
	}
	p := daemon.Program{Name: "sensor", Version: version, Usage: usage, Config: "/etc/trafficmonitor/sensor.yaml"}
	detach := len(args) > 0 && args[0] == "detach"
	if detach {
		args = args[1:]
	}
	f, code, done := p.Parse(args, stdout, stderr)
	if done {
		return code
	}
	if detach && (f.Check || f.Dump) {
		fmt.Fprintf(stderr, "sensor: detach goes with neither --check nor --dump\n%s", usage)
		return daemon.ExitUsage
	}
	cfg, err := config.LoadSensor(f.Config)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return daemon.ExitUsage
	}
	if detach {
		if err := sensor.DetachAll(sensor.PinDir(cfg.Pin, cfg.Name), cfg.Name, stdout); err != nil {
			fmt.Fprintln(stderr, err)
			return daemon.ExitFailed
		}
		return daemon.ExitOK
	}
	level := &slog.LevelVar{}
	log, err := logger(stderr, level, cfg.Log)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return daemon.ExitUsage
	}
	if f.Dump {
		return daemon.Print(cfg, stdout, stderr)
	}
	reg := telemetry.NewRegistry("sensor", version)
	health := &telemetry.Health{}
	o, err := options(cfg, log, reg, health)
	if err == nil {
		err = sensor.Check(o)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", f.Config, err)
		return daemon.ExitUsage
	}
	if f.Check {
		fmt.Fprintf(stdout, "%s: configuration is valid\n", f.Config)
		return daemon.ExitOK
	}

	sensor.Confine(cfg.MemoryLimit, cfg.Pprof)
	manager, err := daemon.NewNotifier()
	if err != nil {
		log.Warn("the service manager is not told how we are", "err", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, manager.Stopping)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				manager.Reloading()
				reload(f.Config, cfg, level, log)
				manager.Ready()
			}
		}
	}()

	log.Info("starting", "version", version, "sensor", cfg.Name)
	o.Alive, o.Status = manager.Alive, manager.Status
	o.Watching = func() error {
		// Certificates are read with each connection: better to find out now that they can be without root's privileges.
		if files := identity(cfg); files.Enabled() {
			if _, err := files.Client("any"); err != nil {
				return fmt.Errorf("%w (privileges are dropped by now: the user of this process must be allowed to read the file; drop_capabilities: false keeps them)", err)
			}
		}
		manager.Ready()
		return nil
	}
	if err := serve(ctx, cfg, o, reg, health); err != nil {
		log.Error("ended", "err", err)
		return daemon.ExitFailed
	}
	return daemon.ExitOK
}

// logger logs from a level on that may change.
func logger(w io.Writer, level *slog.LevelVar, cfg config.Log) (*slog.Logger, error) {
	l, err := telemetry.ParseLevel(cfg.Level)
	if err != nil {
		return nil, err
	}
	level.Set(l)
	return telemetry.NewLevelLogger(w, level, cfg.Format)
}

// reload puts in force what can be changed while the sensor runs, which is log.level. All else is either told by the
// controllers, read anew with each connection (certificates), or sizes what was made at the start.
func reload(path string, running config.Sensor, level *slog.LevelVar, log *slog.Logger) {
	cfg, err := config.LoadSensor(path)
	if err != nil {
		log.Error("the configuration is not read again: it has mistakes, with which the sensor would not start", "err", err)
		return
	}
	if l, err := telemetry.ParseLevel(cfg.Log.Level); err == nil {
		level.Set(l)
	}
	running.Log.Level = cfg.Log.Level
	was, err1 := running.Dump()
	is, err2 := cfg.Dump()
	if err1 != nil || err2 != nil || !bytes.Equal(was, is) {
		log.Warn("the configuration is read again: log.level is in force, other changes need a restart", "level", cfg.Log.Level)
		return
	}
	log.Info("the configuration is read again", "level", cfg.Log.Level)
}

func identity(cfg config.Sensor) pki.Files {
	return pki.Files{CA: cfg.TLS.CA, Cert: cfg.TLS.Cert, Key: cfg.TLS.Key}
}

// options turns the configuration into what the sensor needs to know.
func options(cfg config.Sensor, log *slog.Logger, reg *prometheus.Registry, health *telemetry.Health) (sensor.Options, error) {
	o := sensor.Options{
		Name: cfg.Name, Version: version, Slots: cfg.Slots, Prefixes: cfg.Prefixes, Networks4: cfg.Networks4, Networks6: cfg.Networks6,
		CutMirrors: cfg.CutMirrors, IdleAfter: cfg.IdleAfter, Backlog: cfg.Backlog, StateFile: cfg.StateFile,
		Pin: sensor.PinDir(cfg.Pin, cfg.Name), Checkpoint: cfg.Checkpoint, OnExit: sensor.OnExit(cfg.OnExit),
		Budget: sensor.Budget{Rest: cfg.CPU.Rest, Most: cfg.CPU.Most}, DropCapabilities: cfg.DropCaps,
		Log: log.With("component", "sensor"), Registerer: reg, Ready: health.Set,
	}
	tunnels, err := classify.ParseTunnels(cfg.Decapsulate)
	if err != nil {
		return o, fmt.Errorf("decapsulate: %w", err)
	}
	o.Decapsulate = tunnels
	for _, i := range cfg.Interfaces {
		o.Interfaces = append(o.Interfaces, sensor.Interface{
			Name: i.Name, Mode: sensor.Mode(i.Mode), Hook: sensor.Hook(i.Hook), XDP: sensor.XDP(i.XDP),
			Outbound: i.Outbound, Force: i.Force, Replace: i.Replace, Optional: i.Optional,
		})
	}
	files := identity(cfg)
	if err := errors.Join(files.Register(reg), health.Register(reg)); err != nil {
		return o, err
	}
	for _, c := range cfg.Controllers {
		out := sensor.Controller{Address: c.Address.String()}
		if files.Enabled() {
			name := c.ServerName
			if name == "" {
				name = c.Address.Host
			}
			var err error
			if out.TLS, err = files.Client(name); err != nil {
				return o, err
			}
		}
		o.Controllers = append(o.Controllers, out)
	}
	return o, nil
}

func serve(ctx context.Context, cfg config.Sensor, o sensor.Options, reg *prometheus.Registry, health *telemetry.Health) error {
	t := telemetry.Options{Gatherer: reg, Health: health, Pprof: cfg.Pprof, Log: o.Log}
	if cfg.Telemetry != (config.Address{}) {
		t.Address = cfg.Telemetry.String()
	}
	l, err := telemetry.Listen(ctx, t)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return telemetry.Serve(ctx, l, t) })
	g.Go(func() error { return sensor.Run(ctx, o) })
	return g.Wait()
}
