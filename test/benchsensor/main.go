// Command benchsensor measures what the sensor costs: nanoseconds per packet beside the least a program of its kind could
// do, processor time per packet on a link beside FastNetMon and a bare counter, memory and time at rest and under spoofed
// floods, and how fast a trigger leaves. It needs root, and FastNetMon from Debian's packages.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// parts in the order in which they are measured.
var parts = []struct {
	name    string
	measure func(context.Context, *bench) error
}{
	{"ns", measurePackets},
	{"veth", measureLink},
	{"mirror", measureCapacity},
	{"memory", measureMemory},
	{"trigger", measureTriggers},
}

// bench is what the parts share.
type bench struct {
	sensor string // path of the binary
	report *report
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once; the next run clears away what is left
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "benchsensor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	bin := flag.String("bin", "bin", "`directory` with the sensor")
	out := flag.String("out", "build/bench-sensor.json", "`file` to write; parts that are not measured keep what it holds")
	only := flag.String("only", "", "measure only these `parts`: ns, veth, mirror, memory, trigger; \"none\" prints what the file holds")
	docs := flag.String("docs", "", "also write the tables into this Markdown `file`, between its bench-sensor marks")
	flag.Parse()
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	wanted := names
	switch *only {
	case "":
	case "none":
		wanted = nil
	default:
		wanted = strings.Split(*only, ",")
	}
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return fmt.Errorf("-only %s: the parts are %s, or none", w, strings.Join(names, ","))
		}
	}
	r := &report{}
	if *only != "" {
		var err error
		if r, err = readReport(*out); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if len(wanted) > 0 {
		if err := measure(ctx, wanted, *bin, r); err != nil {
			return err
		}
		r.judge()
		if err := r.write(*out); err != nil {
			return err
		}
	}
	r.print(os.Stdout)
	if len(wanted) > 0 {
		fmt.Println("\nwritten:", *out)
	}
	if *docs == "" {
		return nil
	}
	return r.writeDocs(*docs)
}

func measure(ctx context.Context, wanted []string, bin string, r *report) error {
	if os.Geteuid() != 0 {
		return errors.New("namespaces and BPF need root: run it through make bench-sensor")
	}
	sensor, err := filepath.Abs(filepath.Join(bin, "sensor"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(sensor); err != nil {
		return fmt.Errorf("%w: run \"make build\" first, from the root of the source", err)
	}
	b := &bench{sensor: sensor, report: r}
	r.Machine = thisMachine(sensor)
	for _, p := range parts {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		began := time.Now()
		fmt.Printf("%s: load average %s\n", p.name, loadAverage())
		if err := p.measure(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Printf("%s: took %.0f s\n", p.name, time.Since(began).Seconds())
	}
	return nil
}

// inLab runs body in a lab of its own and takes it down again, also when ctx ends.
func inLab(name string, body func(*lab.Lab) error) (err error) {
	l, err := lab.Open(lab.Options{Name: name})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, l.Tails(20))
		}
		err = errors.Join(err, l.Close())
	}()
	return body(l)
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
