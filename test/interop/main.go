// Command interop announces every rule the product can say to five router programs and compares what each of them shows
// with what was meant.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	program, page, results, routers string
	filter                          string
	keep, failover, restart         bool
	fuzz                            int
	seed                            uint64
}

func run(ctx context.Context) error {
	var o options
	flag.StringVar(&o.program, "controller", "bin/controller", "the program under test")
	flag.StringVar(&o.page, "page", "docs/interop.md", "the page to write after a whole run that went as listed")
	flag.StringVar(&o.results, "results", "build/interop.json", "the file for all results")
	flag.StringVar(&o.routers, "routers", "", "only these routers, separated by commas")
	flag.StringVar(&o.filter, "cells", "", "only the cells whose name matches this regular expression")
	flag.BoolVar(&o.failover, "failover", false, "only two speakers of which one goes away")
	flag.BoolVar(&o.restart, "restart", false, "only a speaker that is killed, and what its routers keep")
	flag.IntVar(&o.fuzz, "fuzz", 0, "only so many random rules")
	flag.Uint64Var(&o.seed, "seed", 1, "of the random rules")
	flag.BoolVar(&o.keep, "keep", false, "keep the logs")
	flag.Parse()
	program, err := filepath.Abs(o.program)
	if err == nil {
		_, err = exec.LookPath(program)
	}
	if err != nil {
		return fmt.Errorf("%w: run it as \"make interop\"", err)
	}
	cells, err := Cells()
	if err != nil {
		return err
	}
	whole := o.filter == "" && o.routers == "" && !o.failover && !o.restart && o.fuzz == 0
	filter, err := regexp.Compile(o.filter)
	if err != nil {
		return err
	}
	cells = slices.DeleteFunc(cells, func(c Cell) bool { return !filter.MatchString(c.Name()) })
	var chosen []implementation
	for _, im := range implementations {
		if o.routers != "" && !slices.Contains(strings.Split(o.routers, ","), im.Name) {
			continue
		}
		for _, tool := range im.Tools {
			if lab.FindTool(tool) == "" {
				return fmt.Errorf("%s is missing: scripts/deps.sh interop installs it", tool)
			}
		}
		chosen = append(chosen, im)
	}
	l, err := lab.Open(lab.Options{Name: "interop", Keep: o.keep})
	if err != nil {
		return err
	}
	begin := time.Now()
	var all report
	var versions map[string]string
	if whole || o.failover {
		all.Failover, err = failovers(ctx, l, program)
	}
	if err == nil && (whole || o.restart) {
		all.Restarts, err = allRestarts(ctx, l, program)
	}
	if err == nil && !o.failover && !o.restart && o.fuzz == 0 {
		all.Cells, versions, err = matrix(ctx, l, program, chosen, cells)
	}
	if n := o.fuzz; err == nil && (whole || n > 0) {
		if whole {
			n = fixedRules
		}
		if all.Fuzz, err = fuzzed(ctx, l, program, chosen, o.seed, n); err == nil {
			all.Foreign, err = foreign(ctx, l, o.seed, n)
		}
	}
	if err != nil {
		l.Keep()
		err = fmt.Errorf("%w\nlogs are kept in %s", err, l.Dir())
	}
	if err := errors.Join(err, l.Close()); err != nil {
		return err
	}
	wrong := append(gaps(all.Failover), wrongFuzz(all.Fuzz)...)
	wrong = append(wrong, wrongForeign(all.Foreign)...)
	wrong = append(wrong, wrongRestarts(all.Restarts)...)
	for i := range all.Cells {
		r := &all.Cells[i]
		if w := mark(r); w != "" {
			wrong = append(wrong, fmt.Sprintf("%s, %s: %s\n\t%s\n\t%s", r.Router, r.cell.Name(), w, r.Route, r.Note))
		}
	}
	if err := all.write(o.results); err != nil {
		return err
	}
	fmt.Printf("all in %v, in %s\n", time.Since(begin).Round(time.Second), o.results)
	if len(wrong) > 0 {
		const most = 30
		shown := wrong[:min(len(wrong), most)]
		return fmt.Errorf("%d cells, rules or events are not as listed:\n%s", len(wrong), strings.Join(shown, "\n"))
	}
	if !whole {
		return nil
	}
	return os.WriteFile(o.page, []byte(Page(cells, versions)), 0o644)
}

// matrix tries every cell at every router, all routers at the same time.
func matrix(ctx context.Context, l *lab.Lab, program string, chosen []implementation, cells []Cell) ([]Result, map[string]string, error) {
	results := make([][]Result, len(chosen))
	versions := make([]string, len(chosen))
	errs := make([]error, len(chosen))
	var wg sync.WaitGroup
	for i, im := range chosen {
		wg.Go(func() {
			begin := time.Now()
			for _, internal := range []bool{false, true} {
				n, asn := 2*i+1, uint32(65100+i)
				if internal {
					n, asn = n+1, ourASN
				}
				mine := slices.DeleteFunc(slices.Clone(cells), func(c Cell) bool { return c.Internal() != internal })
				var some []Result
				if some, versions[i], errs[i] = try(ctx, l, program, n, asn, im, mine); errs[i] != nil {
					errs[i] = fmt.Errorf("%s: %w", im.Name, errs[i])
					return
				}
				results[i] = append(results[i], some...)
			}
			slices.SortFunc(results[i], func(a, b Result) int { return a.cell.number - b.cell.number })
			fmt.Printf("%s %s: %d cells in %v\n", im.Name, versions[i], len(results[i]), time.Since(begin).Round(100*time.Millisecond))
		})
	}
	wg.Wait()
	named := map[string]string{}
	for i, im := range chosen {
		named[im.Name] = versions[i]
	}
	return slices.Concat(results...), named, errors.Join(errs...)
}

// try tries cells at one router of an AS.
func try(ctx context.Context, l *lab.Lab, program string, n int, asn uint32, im implementation, cells []Cell) ([]Result, string, error) {
	starting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := newPair(starting, l, program, n, asn, im)
	if err != nil {
		return nil, "", err
	}
	x := &runner{pair: p, im: im, log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }}
	results, err := x.run(ctx, cells)
	return results, p.version, errors.Join(err, p.stop(ctx))
}

// report is build/interop.json.
type report struct {
	Cells    []Result   `json:"cells"`
	Failover []Failover `json:"failover"`
	Restarts []Restart  `json:"restarts"`
	Fuzz     []Fuzz     `json:"fuzz"`
	Foreign  Foreign    `json:"foreign"`
}

func (r report) write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
