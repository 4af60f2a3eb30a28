// Command sensor counts the packets of a rack in the kernel and streams what it counted to the controllers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/sensor"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry"
)

// version is set by the build.
var version = "dev"

const usage = `usage: sensor --config FILE [--check | --dump]
       sensor --version

`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code: 0 done, 1 failed, 2 wrong usage or configuration.
func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("sensor", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage)
		fs.PrintDefaults()
	}
	path := fs.String("config", "/etc/trafficmonitor/sensor.yaml", "configuration `file`")
	check := fs.Bool("check", false, "check the configuration, change nothing, and exit")
	dump := fs.Bool("dump", false, "print the configuration in force, defaults included, and exit")
	show := fs.Bool("version", false, "print the version and exit")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "sensor: %q is not understood\n%s", fs.Arg(0), usage)
		return 2
	}
	if *show {
		fmt.Fprintln(stdout, version)
		return 0
	}
	cfg, err := config.LoadSensor(*path)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	log, err := telemetry.NewLogger(stderr, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if *dump {
		text, err := cfg.Dump()
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		_, _ = stdout.Write(text)
		return 0
	}
	reg := telemetry.NewRegistry("sensor", version)
	health := &telemetry.Health{}
	o, err := options(cfg, log, reg, health)
	if err == nil {
		err = sensor.Check(o)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", *path, err)
		return 2
	}
	if *check {
		fmt.Fprintf(stdout, "%s: configuration is valid\n", *path)
		return 0
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.Info("starting", "version", version, "sensor", cfg.Name)
	if err := serve(ctx, cfg, o, reg, health); err != nil {
		log.Error("ended", "err", err)
		return 1
	}
	return 0
}

// options turns the configuration into what the sensor needs to know.
func options(cfg config.Sensor, log *slog.Logger, reg *prometheus.Registry, health *telemetry.Health) (sensor.Options, error) {
	o := sensor.Options{
		Name: cfg.Name, Version: version, Slots: cfg.Slots, Prefixes: cfg.Prefixes, Networks4: cfg.Networks4,
		CutMirrors: cfg.CutMirrors, IdleAfter: cfg.IdleAfter, Backlog: cfg.Backlog, StateFile: cfg.StateFile,
		Log: log.With("component", "sensor"), Registerer: reg, Ready: health.Set,
	}
	for _, i := range cfg.Interfaces {
		o.Interfaces = append(o.Interfaces, sensor.Interface{Name: i.Name, Mode: sensor.Mode(i.Mode), Force: i.Force, Optional: i.Optional})
	}
	files := pki.Files{CA: cfg.TLS.CA, Cert: cfg.TLS.Cert, Key: cfg.TLS.Key}
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
