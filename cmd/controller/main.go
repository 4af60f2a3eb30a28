// Command controller is the brain of TrafficMonitor, and with the argument "speaker" the BGP speaker beside it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/amooglesoft/trafficmonitor/internal/app"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/daemon"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry"
)

// version is set by the build.
var version = "dev"

const usage = `usage: controller [speaker] --config FILE [--check | --dump]
       controller --version

  speaker    run the BGP speaker that belongs to the controller of the same configuration
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	isSpeaker := len(args) > 0 && args[0] == "speaker"
	if isSpeaker {
		args = args[1:]
	}
	p := daemon.Program{Name: "controller", Version: version, Usage: usage, Config: "/etc/trafficmonitor/controller.yaml"}
	f, code, done := p.Parse(args, stdout, stderr)
	if done {
		return code
	}
	cfg, err := config.LoadController(f.Config)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return daemon.ExitUsage
	}
	log, err := telemetry.NewLogger(stderr, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return daemon.ExitUsage
	}
	if f.Dump {
		return daemon.Print(cfg, stdout, stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	manager, err := daemon.NewNotifier()
	if err != nil {
		log.Warn("the service manager is not told how we are", "err", err)
	}
	context.AfterFunc(ctx, manager.Stopping)
	ended := func(err error) int {
		if err != nil {
			log.Error("ended", "err", err)
			return daemon.ExitFailed
		}
		return daemon.ExitOK
	}
	if isSpeaker && !f.Check {
		// It has no use for the policy and our certificates: a mistake there must not keep it from announcing its
		// journal. And it has nothing to read again, so a SIGHUP must not end its sessions.
		signal.Ignore(syscall.SIGHUP)
		return ended(app.RunSpeaker(ctx, cfg, version, log, manager.Ready))
	}
	c, err := app.NewController(app.ControllerOptions{Config: cfg, ConfigPath: f.Config, Version: version, Log: log, Serving: manager.Ready})
	if err != nil {
		fmt.Fprintln(stderr, err)
		return daemon.ExitUsage
	}
	if f.Check {
		fmt.Fprintf(stdout, "%s: configuration and policy are valid\n", f.Config)
		return daemon.ExitOK
	}

	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	go func() {
		for range reload {
			c.Reload()
		}
	}()
	return ended(c.Run(ctx))
}
