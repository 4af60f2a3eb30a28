// Command eval is the score card of detection and signatures: it runs the generated scenarios through the replay engine
// and compares what was found with what was there.
//
// It prints a line for each scenario and the figures of all, writes them as JSON, and fails when they are worse than the
// floor that is kept beside it.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/policy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, engine))
}

// run returns the exit code: 0 when nothing is worse than the floor, 1 when something is, 2 when it could not be judged.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, engineOf func(*policy.Policy) runner) int {
	flags := flag.NewFlagSet("eval", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var (
		only   = flags.String("run", "", "run only scenarios whose name this regular expression finds")
		full   = flags.Bool("full", false, "run the long scenarios, too")
		list   = flags.Bool("list", false, "list the scenarios and end")
		jobs   = flags.Int("jobs", 2, "scenarios run at the same time")
		out    = flags.String("json", "build/eval.json", "write the figures to this file; empty for nowhere")
		docs   = flags.String("docs", "", "write the table between the markers of this file, such as docs/eval.md")
		floorF = flags.String("floor", "test/eval/floor.json", "the figures that must not worsen")
		update = flags.Bool("update", false, "make these figures the floor")
		file   = flags.String("policy", "", "policy file; without one the default policy")
	)
	if err := flags.Parse(args); err != nil {
		return 2
	}
	fail := func(err error) int {
		fmt.Fprintf(stderr, "eval: %v\n", err)
		return 2
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return fail(fmt.Errorf("-run: %w", err))
	}
	if *jobs < 1 || flags.NArg() > 0 {
		return fail(fmt.Errorf("-jobs is at least 1, and there are no arguments besides flags"))
	}
	if *update && (*only != "" || *full || *file != "") {
		return fail(fmt.Errorf("-update takes all scenarios of the default run: leave -run, -full and -policy out"))
	}
	scenarios := slices.DeleteFunc(scenario.All(), func(s scenario.Scenario) bool {
		return s.Long && !*full || !pattern.MatchString(s.Name)
	})
	if len(scenarios) == 0 {
		return fail(fmt.Errorf("no scenario is called like %q: -list shows them", *only))
	}
	if *list {
		for _, s := range scenarios {
			fmt.Fprintf(stdout, "%-40s %s\n", s.Name, s.Says)
		}
		return 0
	}
	p := policy.Default()
	if *file != "" {
		if p, err = policy.Load(*file); err != nil {
			return fail(err)
		}
	}
	floor, err := readFloor(*floorF)
	if err != nil && !*update {
		return fail(err)
	}

	scores, err := judgeAll(ctx, scenarios, *jobs, engineOf(p))
	if err != nil {
		return fail(err)
	}
	card := sum(scores)
	card.print(stdout)
	if *out != "" {
		if err := writeJSON(*out, card); err != nil {
			return fail(err)
		}
	}
	if *docs != "" {
		if err := writeDocs(*docs, card); err != nil {
			return fail(err)
		}
	}
	if *update {
		if err := writeJSON(*floorF, card.floor()); err != nil {
			return fail(err)
		}
		return 0
	}
	worse := floor.worse(card, *only == "" && *file == "")
	for _, w := range worse {
		fmt.Fprintf(stderr, "eval: worse than the floor: %s\n", w)
	}
	return cmp.Compare(len(worse), 0)
}

// judgeAll judges so many scenarios at a time; the order of the scores is that of the scenarios.
func judgeAll(ctx context.Context, scenarios []scenario.Scenario, jobs int, r runner) ([]score, error) {
	scores := make([]score, len(scenarios))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for i, s := range scenarios {
		g.Go(func() (err error) {
			if scores[i], err = judge(ctx, s, r); err != nil {
				return fmt.Errorf("scenario %s: %w", s.Name, err)
			}
			return nil
		})
	}
	return scores, g.Wait()
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
