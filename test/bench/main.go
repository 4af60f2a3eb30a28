// Command bench measures, side by side, how long it takes from the first packet of an attack to the route at the router:
// ours, and FastNetMon Community with the fastest settings it has. Both see the same traffic on the same interface and
// announce to the same BIRD; their runs alternate. It needs root, and FastNetMon and gobgpd from Debian's packages.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// The attack: DNS answers over IPv4.
const (
	attackPPS     = 100_000
	thresholdPPS  = 20_000 // of both; ours has it by default
	attackLasts   = 5 * time.Second
	answerTimeout = 8 * time.Second
	readyTimeout  = 60 * time.Second
)

var attackClass = tap.Class{Destination: lab.SiteVictim4, Protocol: 17, SourcePort: 53}

// contender is a system that is measured.
type contender interface {
	name() string
	// start starts it in the site and returns when it is ready to see an attack; it ends with the site's lab.
	start(ctx context.Context, s *lab.Site, dir string) error
	// isAnswer reports whether an UPDATE at the router is its answer to the attack.
	isAnswer(u tap.Update) bool
}

func run() error {
	runs := flag.Int("runs", envInt("RUNS", 20), "`number` of runs of each (also RUNS in the environment)")
	bin := flag.String("bin", "bin", "`directory` with controller and sensor")
	out := flag.String("out", "build/bench.json", "`file` to write")
	only := flag.String("only", "", "measure only the contender of this `name`; nothing is written")
	flag.Parse()
	if os.Geteuid() != 0 {
		return errors.New("namespaces and BPF need root: run it through make bench")
	}
	for _, tool := range []string{"bird", "fastnetmon", "gobgpd"} {
		if lab.FindTool(tool) == "" {
			return fmt.Errorf("%s is missing: scripts/deps.sh test demo bench installs it", tool)
		}
	}
	binDir, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()

	// Attackers, routers and controllers share no processor in a real network: both contenders run beside the flood's.
	if _, err := lab.KeepFree(lab.FloodCPU()); err != nil {
		return err
	}
	contenders := []contender{&ours{bin: binDir}, &fastNetMon{}}
	if *only != "" {
		contenders = slices.DeleteFunc(contenders, func(c contender) bool { return c.name() != *only })
	}
	times := map[string][]float64{}
	fmt.Printf("%d packets/s of DNS answers to one host, threshold %d packets/s, %d runs of each, alternating\n", attackPPS, thresholdPPS, *runs)
	for i := range *runs {
		for _, c := range contenders {
			ms, err := measure(ctx, c)
			if err != nil {
				return fmt.Errorf("run %d of %s: %w", i+1, c.name(), err)
			}
			times[c.name()] = append(times[c.name()], ms)
			fmt.Printf("%3d  %-12s %9.2f ms\n", i+1, c.name(), ms)
		}
	}
	if *only != "" {
		return nil
	}
	r := newReport(contenders, times)
	r.print(os.Stdout)
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(*out, append(text, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Println("written:", *out)
	return nil
}

func envInt(key string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(key)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// measure runs one attack against one contender in a network of its own and returns the time from the attack's first
// packet at the edge to the UPDATE at the router, in milliseconds.
func measure(ctx context.Context, c contender) (ms float64, err error) {
	l, err := lab.Open(lab.Options{Name: "bench"})
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, l.Tails(20))
		}
		err = errors.Join(err, l.Close())
	}()
	ready, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	s, err := lab.NewSite(ready, l, lab.SiteOptions{NoFRR: true, NoEnforce: true})
	if err != nil {
		return 0, err
	}
	updates, err := s.BIRDToControl.BGP()
	if err != nil {
		return 0, err
	}
	if err := c.start(ready, s, l.Dir()); err != nil {
		return 0, err
	}
	if err := s.BIRD.WaitEstablished(ready); err != nil {
		return 0, err
	}
	// A poller must not be favoured or punished by a fixed phase.
	phase := time.Duration(rand.Int64N(int64(time.Second)))
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(phase):
	}

	first, err := s.EdgeIn.First(attackClass)
	if err != nil {
		return 0, err
	}
	template, err := flood.DNSAnswers(lab.SiteVictim4, lab.SiteSpoofed4, 512)
	if err != nil {
		return 0, err
	}
	f, err := s.AttackerOut.Flood(s.EdgeIn, flood.Options{
		Template: template, PPS: attackPPS, Packets: uint64(attackPPS * attackLasts.Seconds()), Duration: 2 * attackLasts,
		Pin: true, CPU: lab.FloodCPU(),
	})
	if err != nil {
		return 0, err
	}
	attack, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { _, err := f.Run(attack); done <- err }()
	defer func() {
		end()
		if ferr := <-done; ferr != nil && !errors.Is(ferr, context.Canceled) {
			err = errors.Join(err, ferr)
		}
	}()

	limit, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	zero, err := first.Wait(limit)
	if err != nil {
		return 0, err
	}
	u, err := updates.Wait(limit, zero, c.isAnswer)
	if err != nil {
		return 0, fmt.Errorf("no route arrived at the router: %w", err)
	}
	return float64(u.Time.Sub(zero)) / float64(time.Millisecond), nil
}
