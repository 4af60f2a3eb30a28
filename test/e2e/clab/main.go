// Command clab runs the containerlab topologies beside it, end to end: our programs in containers, real routers, attacks
// inside of the topology. It starts a docker daemon of its own where none is of use, builds its images from Debian's
// packages, and leaves nothing behind. docs/containerlab.md is for those who use the topologies by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// scenario is a topology and what is tried on it.
type scenario struct {
	name string // of the file NAME.clab.yml
	run  func(*network)
}

var scenarios = []scenario{{"fabric", fabric}, {"edge", edge}, {"exchange", exchange}}

func main() {
	log.SetFlags(0)
	if len(os.Args) > 2 && os.Args[1] == runtimeFlag {
		log.Fatal(actAsRuntime(os.Args[2], os.Args[3:]))
	}
	var o options
	flag.StringVar(&o.containerlab, "containerlab", "containerlab", "path of containerlab")
	flag.StringVar(&o.bin, "bin", "bin", "folder of our programs")
	flag.StringVar(&o.cache, "cache", "build/clab", "folder for what is expensive to make: images, certificates")
	flag.StringVar(&o.base, "base", os.Getenv("CLAB_BASE"), "base image; empty: made by debootstrap, or debian:bookworm-slim where there is none")
	flag.BoolVar(&o.prepare, "prepare", false, "only make the images, in the docker daemon there is, and the certificates")
	flag.BoolVar(&o.keep, "keep", false, "leave the last topology running")
	flag.BoolVar(&o.down, "down", false, "only take away what -keep, or a run that was killed, left")
	flag.Parse()

	// SIGTERM and Ctrl-C end the step that is under way; what follows is taken down in good order.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, o, flag.Args()); err != nil {
		log.Print("clab: ", err)
		os.Exit(1)
	}
}

type options struct {
	containerlab, bin, cache, base string
	prepare, keep, down            bool
}

func run(ctx context.Context, o options, names []string) error {
	if os.Geteuid() != 0 {
		return errors.New("containers, networks and BPF need root")
	}
	var wanted []scenario
	for _, s := range scenarios {
		if len(names) == 0 || slices.Contains(names, s.name) {
			wanted = append(wanted, s)
		}
	}
	if len(names) > len(wanted) {
		return fmt.Errorf("%s: no such topology, or twice: there are %s", strings.Join(names, " "), scenarioNames())
	}
	if o.keep && len(wanted) != 1 {
		return fmt.Errorf("-keep: name one topology: %s", scenarioNames())
	}
	for _, p := range []*string{&o.bin, &o.cache} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	unlock, err := lockHome()
	if err != nil {
		return err
	}
	defer unlock()
	if o.down {
		return down(ctx, o)
	}
	if o.prepare {
		d, err := existingDocker(ctx)
		if err != nil {
			return err
		}
		if d == nil {
			return errors.New("-prepare: no docker daemon answers: start one, or set DOCKER_HOST")
		}
		return errors.Join(d.images(ctx, o), certificates(ctx, o))
	}
	if err := sweep(ctx, o); err != nil {
		return fmt.Errorf("take away what an earlier run left: %w", err)
	}
	return test(ctx, o, wanted)
}

// test runs the scenarios one after the other, each to its end: the failure of one is not that of another.
func test(ctx context.Context, o options, wanted []scenario) (err error) {
	began := time.Now()
	d, err := needDocker(ctx, o)
	if err != nil {
		return err
	}
	end := func() {
		// Whatever ended the run, this is to be done, and bounded.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, d.close(ctx, o))
	}
	kept := false
	defer func() {
		if !kept {
			end()
		}
	}()
	if err := errors.Join(d.images(ctx, o), certificates(ctx, o)); err != nil {
		return err
	}
	passed, failed := 0, 0
	for _, s := range wanted {
		n := &network{name: s.name, docker: d, o: o, ctx: ctx}
		log.Printf("== %s", s.name)
		// What is there already is somebody else's: it is left alone.
		if there, err := n.exists(ctx); there || err != nil {
			return errors.Join(fmt.Errorf("%s is deployed already, not by this run: make clab-down takes it away", n.lab()), err)
		}
		n.deploy()
		s.run(n)
		passed += n.passed
		if n.err != nil && ctx.Err() == nil {
			failed++
			n.failed()
		}
		if o.keep && ctx.Err() == nil {
			kept = true
			n.explain()
			break
		}
		if err := errors.Join(n.destroy(context.WithoutCancel(ctx)), n.leftovers()); err != nil {
			failed++
			log.Printf("   FAILED: take %s down: %v", s.name, err)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	log.Printf("%d passed, %d failed", passed, failed)
	log.Printf("in %v", time.Since(began).Round(time.Second))
	if failed > 0 {
		return fmt.Errorf("%d of %d topologies failed", failed, len(wanted))
	}
	return nil
}

func scenarioNames() string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}
