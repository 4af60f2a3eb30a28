// Command evalparse compares what the sensor's classifier makes of captures with tshark's dissection, packet by packet.
//
// For every packet it compares whether it is IP, the protocol behind the IP header and its extensions, the ports, the TCP
// flags or the ICMP type, whether it is a fragment, and the vector that follows from them. tshark's reassembly and
// checksums are switched off, for the sensor sees packets one by one; what else is left out is counted and named.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/amooglesoft/trafficmonitor/internal/capture"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 0 when nothing differs, 1 when something does, 2 when it could not be compared.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("evalparse", flag.ContinueOnError)
	flags.SetOutput(stderr)
	tunnels := flags.String("decapsulate", "", "tunnels to look into, with commas between them: "+strings.Join(classify.TunnelNames, ", "))
	all := flags.Bool("all", false, "print a line for every file, not only for those with differences")
	jobs := flags.Int("jobs", 2, "files compared at the same time")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 0 || *jobs < 1 {
		fmt.Fprintln(stderr, "usage: evalparse [--decapsulate TUNNELS] [--all] FILE|DIRECTORY...")
		return 2
	}
	if _, err := exec.LookPath("tshark"); err != nil {
		fmt.Fprintln(stderr, "evalparse: there is no tshark to compare with: scripts/deps.sh eval installs it")
		return 2
	}
	var set classify.Tunnels
	if *tunnels != "" {
		var err error
		if set, err = classify.ParseTunnels(strings.Split(*tunnels, ",")); err != nil {
			fmt.Fprintf(stderr, "evalparse: --decapsulate: %v\n", err)
			return 2
		}
	}
	files, err := find(flags.Args())
	if err == nil && len(files) == 0 {
		err = errors.New("no capture there: their names end in .pcap, .pcapng, .cap or one of those and .gz")
	}
	if err != nil {
		fmt.Fprintf(stderr, "evalparse: %v\n", err)
		return 2
	}
	results := make([]*result, len(files))
	var done atomic.Int32
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(*jobs)
	for i, name := range files {
		g.Go(func() (err error) {
			if results[i], err = compareFile(ctx, name, set); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if n := done.Add(1); n%50 == 0 {
				fmt.Fprintf(stderr, "evalparse: %d of %d files\n", n, len(files))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		fmt.Fprintf(stderr, "evalparse: %v\n", err)
		return 2
	}
	w := bufio.NewWriter(stdout)
	differ := report(w, results, *all)
	if err := w.Flush(); err != nil {
		fmt.Fprintf(stderr, "evalparse: %v\n", err)
		return 2
	}
	if differ {
		return 1
	}
	return 0
}

// find lists the captures in the named files and folders.
func find(roots []string) (files []string, err error) {
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			name := strings.TrimSuffix(path, ".gz")
			if err == nil && !d.IsDir() && (path == root || slices.Contains([]string{".pcap", ".pcapng", ".cap"}, filepath.Ext(name))) {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// result is what became of one file.
type result struct {
	name                      string
	packets, compared, agreed int
	left                      map[string]int // not compared, by reason
	differing                 []string       // the first few, in words
	notes                     []string       // about the file
}

const shown = 5

func (r *result) differ(number int, format string, args ...any) {
	if len(r.differing) < shown {
		r.differing = append(r.differing, fmt.Sprintf("packet %d: ", number)+fmt.Sprintf(format, args...))
	}
}

// compareFile reads the file beside tshark.
func compareFile(ctx context.Context, name string, tunnels classify.Tunnels) (*result, error) {
	res := &result{name: name, left: map[string]int{}}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	theirs, err := dissect(ctx, name)
	if err != nil {
		return nil, err
	}
	defer theirs.close()
	reader, err := capture.NewReader(f)
	if err != nil {
		if _, more := theirs.next(); more {
			res.differ(0, "tshark reads the file, we do not: %v", err)
			res.compared++
		} else {
			res.notes = append(res.notes, "neither reads it: "+err.Error())
		}
		return res, nil
	}
	ports := classify.DefaultPorts()
	for {
		p, err := reader.Next()
		d, more := theirs.next()
		var unreadable *capture.UnreadableError
		switch {
		case errors.As(err, &unreadable):
			res.packets++
			res.left["link type "+p.Link.String()]++
			continue
		case err != nil && more:
			res.packets++
			res.compared++
			res.differ(d.number, "tshark reads it, we do not: %v", err)
			return res, nil
		case errors.Is(err, io.EOF):
			return res, nil
		case err != nil:
			res.notes = append(res.notes, err.Error())
			return res, nil
		case !more:
			res.compared++
			res.differ(p.Number, "we read it, tshark does not: %s", theirs.failed())
			return res, nil
		}
		res.packets++
		ours := classify.Classify(classify.Frame{Data: p.Data, Wire: p.Wire, Decapsulate: tunnels}, ports)
		v := judge(ours, d)
		if v.left != "" {
			res.left[v.left]++
			continue
		}
		res.compared++
		if v.differs == "" {
			res.agreed++
		} else {
			res.differ(p.Number, "%s (tshark: %s)", v.differs, d.protocols)
		}
	}
}

// report prints the table and says whether anything differs.
func report(w io.Writer, results []*result, all bool) bool {
	var sum result
	sum.left = map[string]int{}
	files := 0
	fmt.Fprintf(w, "%9s %9s %9s %9s  %s\n", "packets", "compared", "agreed", "differing", "file")
	line := func(r *result) {
		fmt.Fprintf(w, "%9d %9d %9d %9d  %s\n", r.packets, r.compared, r.agreed, r.compared-r.agreed, r.name)
		for _, d := range r.differing {
			fmt.Fprintf(w, "%42s %s\n", "", d)
		}
		for _, n := range r.notes {
			fmt.Fprintf(w, "%42s note: %s\n", "", n)
		}
	}
	for _, r := range results {
		sum.packets, sum.compared, sum.agreed = sum.packets+r.packets, sum.compared+r.compared, sum.agreed+r.agreed
		for reason, n := range r.left {
			sum.left[reason] += n
		}
		if r.compared != r.agreed {
			files++
		}
		if all || r.compared != r.agreed || len(r.notes) > 0 {
			line(r)
		}
	}
	sum.name = fmt.Sprintf("all %d files, %d of them with differences", len(results), files)
	line(&sum)
	reasons := slices.SortedFunc(maps.Keys(sum.left), func(a, b string) int {
		return cmp.Or(cmp.Compare(sum.left[b], sum.left[a]), cmp.Compare(a, b))
	})
	if len(reasons) > 0 {
		fmt.Fprintln(w, "\nnot compared:")
	}
	for _, reason := range reasons {
		fmt.Fprintf(w, "%9d  %s\n", sum.left[reason], reason)
	}
	return files > 0
}
