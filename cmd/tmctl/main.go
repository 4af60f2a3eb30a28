// Command tmctl lets engineers watch and steer TrafficMonitor.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/amooglesoft/trafficmonitor/internal/tmctl"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := tmctl.Run(ctx, os.Args[1:], tmctl.Env{Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version})
	stop()
	os.Exit(code)
}
