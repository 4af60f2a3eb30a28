// Command controller is the brain of TrafficMonitor, and with the argument "speaker" the BGP speaker beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/amooglesoft/trafficmonitor/internal/app"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry"
)

// version is set by the build.
var version = "dev"

const usage = `usage: controller [speaker] --config FILE [--check | --dump]
       controller --version

  speaker    run the BGP speaker that belongs to the controller of the same configuration
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code: 0 done, 1 failed, 2 wrong usage or configuration.
func run(args []string, stdout, stderr io.Writer) int {
	isSpeaker := len(args) > 0 && args[0] == "speaker"
	if isSpeaker {
		args = args[1:]
	}
	fs := flag.NewFlagSet("controller", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage)
		fs.PrintDefaults()
	}
	path := fs.String("config", "/etc/trafficmonitor/controller.yaml", "configuration `file`")
	check := fs.Bool("check", false, "check configuration and policy, change nothing, and exit")
	dump := fs.Bool("dump", false, "print the configuration in force, defaults included, and exit")
	show := fs.Bool("version", false, "print the version and exit")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "controller: %q is not understood\n%s", fs.Arg(0), usage)
		return 2
	}
	if *show {
		fmt.Fprintln(stdout, version)
		return 0
	}
	cfg, err := config.LoadController(*path)
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
	c, err := app.NewController(app.ControllerOptions{Config: cfg, ConfigPath: *path, Version: version, Log: log})
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if *check {
		fmt.Fprintf(stdout, "%s: configuration and policy are valid\n", *path)
		return 0
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if isSpeaker {
		err = app.RunSpeaker(ctx, cfg, version, log)
	} else {
		reload := make(chan os.Signal, 1)
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
		go func() {
			for range reload {
				c.Reload()
			}
		}()
		err = c.Run(ctx)
	}
	if err != nil {
		log.Error("ended", "err", err)
		return 1
	}
	return 0
}
