package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/test/kernels/guest"
)

// maySkip lists the tests that do not run in the machines, and why. Any other skip is a failure: it would be a hole that
// nobody sees. So is a test of this list that did run.
var maySkip = []struct{ kernels, pkg, test, why string }{
	{"", "internal/sensor/bpf", "TestObjectsAreWhatTheSourceSays", "compares the committed objects with clang's output, which no kernel changes"},
	{"", "internal/sensor", "TestInterfaceThatLiesOnTheHosts", "needs macvlan, which kernels made for clouds lack"},
	{"6.1.", "internal/sensor", "TestHooksOutliveTheProcess/tcx", "needs tcx, which came with Linux 6.6"},
	{"6.1.", "internal/sensor", "TestInterfaceThatCannotBeAskedFor/tcx", "needs tcx, which came with Linux 6.6"},
	{"6.1.", "internal/sensor", "TestOtherProgramsAreLeftAlone", "needs another's program at tcx, which came with Linux 6.6"},
}

// results gathers what the tests of one machine did.
type results struct {
	plan    guest.Plan
	release string
	verbose bool
	partial bool // only some tests were asked for

	output                  map[string]*bytes.Buffer // of each package
	exits                   map[string]int
	passed, failed, skipped int
	bad                     []string
}

func newResults(plan guest.Plan, release string, verbose, partial bool) *results {
	return &results{plan: plan, release: release, verbose: verbose, partial: partial, output: map[string]*bytes.Buffer{}, exits: map[string]int{}}
}

// handle takes one message.
func (r *results) handle(m guest.Message) error {
	switch {
	case m.Kernel != "":
		if m.Kernel != r.release {
			return fmt.Errorf("the machine runs kernel %s", m.Kernel)
		}
	case m.Exit != nil:
		r.exits[m.Package] = *m.Exit
		return r.judge(m.Package)
	case m.File != "":
		return os.WriteFile(filepath.Join(m.Package, filepath.FromSlash(m.File)), m.Data, 0o644)
	default:
		if r.output[m.Package] == nil {
			r.output[m.Package] = new(bytes.Buffer)
		}
		r.output[m.Package].WriteString(m.Output)
		if r.verbose {
			fmt.Print(m.Output)
		}
	}
	return nil
}

// event is what go tool test2json writes.
type event struct{ Action, Test, Output string }

// judge reads the output of a package whose tests have ended.
func (r *results) judge(pkg string) error {
	all := r.output[pkg]
	if all == nil {
		all = new(bytes.Buffer)
	}
	cmd := exec.Command("go", "tool", "test2json", "-p", pkg)
	cmd.Stdin = bytes.NewReader(all.Bytes())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go tool test2json: %w", err)
	}
	printed := map[string]*strings.Builder{}
	passed, failed, skipped := 0, 0, 0
	for in := json.NewDecoder(bytes.NewReader(out)); ; {
		var e event
		if err := in.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("output of go tool test2json: %w", err)
		}
		if printed[e.Test] == nil {
			printed[e.Test] = new(strings.Builder)
		}
		printed[e.Test].WriteString(e.Output)
		if e.Test == "" {
			continue // the package's own result: its exit status says it
		}
		may := r.maySkip(pkg, e.Test)
		switch e.Action {
		case "pass":
			passed++
			if may {
				r.complain(pkg, e.Test, "did run, but is listed as one that does not: take it out of the list", "")
			}
		case "fail":
			failed++
			r.complain(pkg, e.Test, "failed", printed[e.Test].String())
		case "skip":
			skipped++
			if !may {
				r.complain(pkg, e.Test, "was skipped, and is not listed as one that may be", printed[e.Test].String())
			}
		}
	}
	switch {
	case r.exits[pkg] != 0 && failed == 0:
		r.complain(pkg, "", fmt.Sprintf("ended with status %d", r.exits[pkg]), all.String())
	case passed == 0 && !r.partial:
		r.complain(pkg, "", "ran no test", all.String())
	}
	fmt.Printf("  %-28s %3d passed, %d failed, %d skipped\n", pkg, passed, failed, skipped)
	r.passed, r.failed, r.skipped = r.passed+passed, r.failed+failed, r.skipped+skipped
	return nil
}

func (r *results) maySkip(pkg, test string) bool {
	for _, s := range maySkip {
		if strings.HasPrefix(r.release, s.kernels) && s.pkg == pkg && s.test == test {
			return true
		}
	}
	return false
}

func (r *results) complain(pkg, test, what, output string) {
	name := strings.TrimSuffix(pkg+" "+test, " ")
	r.bad = append(r.bad, name+" "+what)
	fmt.Printf("%s %s\n", name, what)
	var t tail // a verifier's log is long, and says why at its end
	_, _ = t.Write([]byte(output))
	for line := range strings.Lines(t.last()) {
		fmt.Printf("    %s", line)
	}
}

// finish says what went wrong, if anything did.
func (r *results) finish() error {
	for _, t := range r.plan.Tests {
		if _, ok := r.exits[t.Package]; !ok {
			printed := ""
			if b := r.output[t.Package]; b != nil {
				printed = b.String()
			}
			r.complain(t.Package, "", "did not end", printed)
		}
	}
	if len(r.bad) == 0 {
		return nil
	}
	slices.Sort(r.bad)
	return errors.New(strings.Join(slices.Compact(r.bad), "\n  "))
}
