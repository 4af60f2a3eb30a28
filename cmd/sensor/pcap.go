package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/amooglesoft/trafficmonitor/internal/daemon"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/offline"
)

// wantsCapture tells whether the arguments are those of a run on a capture, which needs no configuration.
func wantsCapture(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		name, _, _ := strings.Cut(a, "=")
		return name == "--pcap" || name == "-pcap"
	})
}

// runCapture counts a capture, prints what was counted and returns the exit code: 1 when the capture is broken, its
// packets cannot be read, or the engines differ.
func runCapture(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("sensor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage); flags.PrintDefaults() }
	o := offline.Options{}
	flags.StringVar(&o.File, "pcap", "", "capture to count, pcap or pcapng")
	engine := flags.String("pcap-engine", string(offline.Auto), "who counts: bpf (the programs, as root), go (the reference classifier), both (and compare), auto (both as root, else go)")
	targets := flags.String("targets", "", "protected prefixes, with commas between them; none means every destination")
	tunnels := flags.String("decapsulate", "", "tunnels to look into, with commas between them: "+strings.Join(classify.TunnelNames, ", "))
	asJSON := flags.Bool("json", false, "print one JSON object")
	top := flags.Int("top", 20, "targets shown, the busiest first; 0 means all")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return daemon.ExitOK
		}
		return daemon.ExitUsage
	}
	fail := func(code int, err error) int {
		fmt.Fprintf(stderr, "sensor: %v\n", err)
		return code
	}
	if flags.NArg() > 0 {
		return fail(daemon.ExitUsage, fmt.Errorf("%q is not expected: --pcap takes one file", flags.Arg(0)))
	}
	o.Engine = offline.Engine(*engine)
	if !slices.Contains(offline.Engines, o.Engine) {
		return fail(daemon.ExitUsage, fmt.Errorf("--pcap-engine: %q is none of %v", *engine, offline.Engines))
	}
	var err error
	if *targets != "" {
		for text := range strings.SplitSeq(*targets, ",") {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				if a, aerr := netip.ParseAddr(text); aerr == nil {
					p, err = a.Prefix(a.BitLen())
				}
			}
			if err != nil || p.Masked() != p || p.Bits() == 0 {
				return fail(daemon.ExitUsage, fmt.Errorf("--targets: %q is no prefix such as 203.0.113.0/24", text))
			}
			o.Targets = append(o.Targets, p)
		}
	}
	if *tunnels != "" {
		if o.Decapsulate, err = classify.ParseTunnels(strings.Split(*tunnels, ",")); err != nil {
			return fail(daemon.ExitUsage, fmt.Errorf("--decapsulate: %w", err))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r, err := offline.Count(ctx, o)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(daemon.ExitUsage, err)
	}
	if err != nil {
		return fail(daemon.ExitFailed, err)
	}
	if r.WhyNotKernel != nil {
		fmt.Fprintf(stderr, "sensor: counted by the reference classifier only: %v\n", r.WhyNotKernel)
	}
	view := viewOf(o.File, r, *top)
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		err = e.Encode(view)
	} else {
		err = view.print(stdout)
	}
	if err != nil {
		return fail(daemon.ExitFailed, err)
	}
	if len(r.Differs) > 0 || r.Broken != nil || r.Packets > 0 && r.Unreadable == r.Packets {
		return daemon.ExitFailed
	}
	return daemon.ExitOK
}

// captureView is what is printed.
type captureView struct {
	File        string         `json:"file"`
	Engine      offline.Engine `json:"engine"`
	Packets     int            `json:"packets"`
	Unreadable  int            `json:"unreadable"`
	NotIP       uint64         `json:"not_ip"`
	Headless    uint64         `json:"headless"`
	Unprotected uint64         `json:"unprotected"`
	NotRun      uint64         `json:"not_run"`
	Beyond      int            `json:"beyond,omitempty"`
	Broken      string         `json:"broken,omitempty"`
	Agree       *bool          `json:"agree,omitempty"`
	Differs     []string       `json:"differs,omitempty"`
	Targets     int            `json:"targets"`
	Counts      []captureCount `json:"counts"`
}

type captureCount struct {
	Target    string `json:"target"`
	Direction string `json:"direction"`
	Vector    string `json:"vector"`
	offline.Tally
}

// viewOf orders what was counted: the busiest targets first, and of each the busiest vectors.
func viewOf(file string, r *offline.Result, top int) captureView {
	v := captureView{
		File: file, Engine: r.Engine, Packets: r.Packets, Unreadable: r.Unreadable, NotIP: r.NotIP, Headless: r.Headless,
		Unprotected: r.Unprotected, NotRun: r.NotRun, Beyond: r.Beyond, Differs: r.Differs, Counts: []captureCount{},
	}
	if r.Broken != nil {
		v.Broken = r.Broken.Error()
	}
	if r.Engine == offline.Both {
		agree := len(r.Differs) == 0
		v.Agree = &agree
	}
	totals := map[netip.Prefix]uint64{}
	for k, t := range r.Counts {
		totals[k.Target] += t.Packets
	}
	v.Targets = len(totals)
	ranked := slices.SortedFunc(maps.Keys(totals), func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(totals[b], totals[a]), a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	if top > 0 {
		ranked = ranked[:min(top, len(ranked))]
	}
	place := map[netip.Prefix]int{}
	for i, t := range ranked {
		place[t] = i + 1
	}
	keys := slices.SortedFunc(maps.Keys(r.Counts), func(a, b offline.Key) int {
		return cmp.Or(
			cmp.Compare(place[a.Target], place[b.Target]), cmp.Compare(a.Direction, b.Direction),
			cmp.Compare(r.Counts[b].Packets, r.Counts[a].Packets), cmp.Compare(a.Vector, b.Vector),
		)
	})
	for _, k := range keys {
		if place[k.Target] == 0 {
			continue
		}
		name := k.Target.String()
		if k.Target.IsSingleIP() {
			name = k.Target.Addr().String()
		}
		v.Counts = append(v.Counts, captureCount{name, k.Direction.String(), k.Vector.String(), r.Counts[k]})
	}
	return v
}

func (v captureView) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tDIRECTION\tVECTOR\tPACKETS\tBYTES")
	shown := map[string]bool{}
	for _, c := range v.Counts {
		shown[c.Target] = true
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", c.Target, c.Direction, c.Vector, c.Packets, c.Bytes)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	line := fmt.Sprintf("%d packets, %d of %d targets shown", v.Packets, len(shown), v.Targets)
	for _, part := range []struct {
		n    uint64
		what string
	}{
		{v.NotIP, "not IP"},
		{v.Headless, "too short to have a target"},
		{v.Unprotected, "to no target"},
		{uint64(v.Unreadable), "of a link type that is not read"},
		{v.NotRun, "not taken by the kernel's test run"},
	} {
		if part.n > 0 {
			line += fmt.Sprintf("; %d %s", part.n, part.what)
		}
	}
	fmt.Fprintln(out, line)
	if v.Agree != nil && *v.Agree {
		fmt.Fprintln(out, "the programs in the kernel and the reference classifier agree")
	}
	if v.Beyond > 0 {
		who := "they are counted by the reference classifier only"
		if v.Engine == offline.Kernel {
			who = "their packets count as to no target (--pcap-engine go counts all)"
		}
		fmt.Fprintf(out, "the kernel's tables have no room for the %d least busy targets: %s\n", v.Beyond, who)
	}
	for _, d := range v.Differs {
		fmt.Fprintf(out, "the programs and the reference differ, please report it: %s\n", d)
	}
	if v.Broken != "" {
		fmt.Fprintf(out, "%s: %s; what came before is counted\n", v.File, v.Broken)
	}
	return nil
}
