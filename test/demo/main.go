// Command demo shows TrafficMonitor at work on one machine: real attack packets, an eBPF sensor, the controller, real BGP
// routers, a legitimate client that goes on working, and a rule that goes away by itself. It needs root, and the programs
// "make build" makes. What it measured is written to build/demo.json.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once; the next run clears away what is left
	out := newTimeline(os.Stdout, colourful())
	err := run(ctx, out)
	out.flush(time.Time{})
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled):
		out.line("\nInterrupted; everything is cleared away.")
		os.Exit(130)
	default:
		out.line("\n" + out.paint(red, "The demo failed: ") + err.Error())
		os.Exit(1)
	}
}

// colourful reports whether a person looks at a terminal that can show colour.
func colourful() bool {
	_, err := unix.IoctlGetTermios(int(os.Stdout.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func run(ctx context.Context, out *timeline) (err error) {
	bin := cmpOr(os.Getenv("BIN"), "bin")
	for _, name := range []string{"controller", "sensor", "tmctl"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("%w: run \"make build\" first, from the root of the source", err)
		}
	}
	result := cmpOr(os.Getenv("RESULT"), filepath.Join("build", "demo.json"))
	if err := os.MkdirAll(filepath.Dir(result), 0o755); err != nil {
		return err
	}
	if err := os.Remove(result); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // an old result must not be taken for a new one
	}
	if _, err := lab.KeepFree(lab.FloodCPU()); err != nil {
		return err
	}
	l, err := lab.Open(lab.Options{Name: "demo"})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			l.Keep()
			out.flush(time.Time{})
			out.line("\n" + l.Tails(12) + "\nAll logs: " + l.Dir())
		}
		err = errors.Join(err, l.Close())
	}()

	out.head("TrafficMonitor", "an attack from its first packet to the end of its rule, on this machine")
	st, err := build(ctx, l, bin, out)
	if err != nil {
		return err
	}
	var reports []report
	for _, a := range attacks() {
		r, err := st.play(ctx, a)
		if err != nil {
			return fmt.Errorf("%s: %w", a.title, err)
		}
		reports = append(reports, r)
	}
	if err := save(result, reports); err != nil {
		return err
	}
	var failures []error
	for _, r := range reports {
		failures = append(failures, r.check())
	}
	summarise(out, reports, result)
	failed := errors.Join(failures...)
	if os.Getenv("KEEP") == "1" {
		if failed != nil {
			out.line(out.paint(red, "Failed: ") + failed.Error())
		}
		st.keep(ctx)
	}
	return failed
}

// save writes what was measured, times to the microsecond.
func save(path string, reports []report) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false) // routes hold &
	e.SetIndent("", "  ")
	if err := e.Encode(reports); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// keep leaves everything running until Ctrl-C.
func (s *stage) keep(ctx context.Context) {
	s.out.line(fmt.Sprintf(`
The lab goes on until Ctrl-C. In another terminal, as root:

  export TMCTL_ADDRESS=unix://%s
  %s status
  %s announce 'destination 203.0.113.10/32 protocol udp destination-port 9999 then discard' --ttl 1m --reason 'trying it'
  %s watch
  ip netns exec %s birdc -s %s show route table flowtab4 all
  ip netns exec %s nft list table inet flowspec

Logs and configurations: %s`,
		s.socket, s.tmctl, s.tmctl, s.tmctl, s.site.Edge.FullName(), s.site.BIRD.Socket(), s.site.Edge.FullName(), s.site.Lab.Dir()))
	<-ctx.Done()
}

// summarise prints what was measured as a table.
func summarise(out *timeline, reports []report, path string) {
	out.head("Measured", "milliseconds from the first packet of each attack at the edge")
	out.line(fmt.Sprintf("  %-28s %9s %9s %9s %9s %22s %24s", "attack", "trigger", "decision", "UPDATE", "drop", "packets/s to the rack", "client lost %"))
	out.line(fmt.Sprintf("  %-28s %9s %9s %9s %9s %22s %24s", "", "", "", "(BIRD)", "", "before → after", "before / during / after"))
	for _, r := range reports {
		out.line(fmt.Sprintf("  %-28s %9.1f %9.1f %9.1f %9.1f %22s %24s", r.Vector+" "+r.Family,
			r.FirstPacketToTrigger, r.FirstPacketToDecision, r.FirstPacketToUpdate, r.FirstPacketToDrop,
			fmt.Sprintf("%s → %s", thousands(r.PPSBefore), thousands(r.PPSAfter)),
			fmt.Sprintf("%.2f / %.2f / %.2f", r.LossBefore, r.LossDuring, r.LossAfter)))
	}
	out.line("\n  written to " + path)
}

func thousands(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}
