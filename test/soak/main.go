// Command soak lets the whole system work under churn, two controllers with their speakers, two sensors, two routers and
// etcd, and says which process does not give back what it took. It needs root, and the programs "make build" makes. What it
// saw is written to build/soak.json.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "etcd" {
		serveEtcd(os.Args[2])
		return
	}
	span := flag.Duration("for", 10*time.Minute, "how long; its first third is not judged")
	rate := flag.Int("rate", 20, "short attacks a second that the scripted sensors tell of, each with a rule of its own; a speaker of its own gets ten times as many rules")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once; the next run clears away what is left
	switch err := run(ctx, *span, *rate); {
	case err == nil:
		fmt.Println("\nNothing grew, nothing was lost, nothing was left.")
	case ctx.Err() != nil:
		fmt.Println("\nInterrupted; everything is cleared away.")
		os.Exit(130)
	default:
		fmt.Printf("\nThe soak failed:\n%v\n", err)
		os.Exit(1)
	}
}

// result is build/soak.json.
type result struct {
	Span      time.Duration
	Counts    map[string]int
	Processes []verdict
	Errors    map[string]int // unprovoked lines of level error, by process and message
	Failures  []string
	Samples   []sample
}

func run(ctx context.Context, span time.Duration, rate int) (err error) {
	bin, err := filepath.Abs(cmp.Or(os.Getenv("BIN"), "bin"))
	if err != nil {
		return err
	}
	for _, name := range []string{"controller", "sensor"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("%w: run \"make build\" first, from the root of the source", err)
		}
	}
	path := cmp.Or(os.Getenv("RESULT"), filepath.Join("build", "soak.json"))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // an old result must not be taken for a new one
	}
	l, err := lab.Open(lab.Options{Name: "soak"})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			l.Keep()
			err = fmt.Errorf("%w\nAll logs: %s", err, l.Dir())
		}
		err = errors.Join(err, l.Close())
	}()
	s, err := build(ctx, l, bin)
	if err != nil {
		return err
	}
	fmt.Printf("Two controllers, three speakers with BIRD, two sensors, etcd: %v of %d short attacks a second, and %d rules a second for the third speaker.\n\n", span, rate, 10*rate)
	r, err := s.soak(ctx, span, rate)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	show(os.Stdout, r)
	fmt.Printf("\nWritten to %s\n", path)
	var failures []error
	for _, f := range r.Failures {
		failures = append(failures, errors.New("  "+f))
	}
	return errors.Join(failures...)
}
