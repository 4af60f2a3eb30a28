package tmctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amooglesoft/trafficmonitor/internal/journal"
	"github.com/amooglesoft/trafficmonitor/internal/replay"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// replayed is what tmctl replay says of one capture, as --json shows it: docs/replay.md describes it, and its names stay.
type replayed struct {
	File       string          `json:"file"`
	Packets    int             `json:"packets"`
	Malformed  int             `json:"malformed"`
	NotIP      int             `json:"not_ip"`
	Unreadable int             `json:"unreadable"`
	Uncounted  uint64          `json:"uncounted"`
	Loops      int             `json:"loops"`
	Reports    int             `json:"reports,omitempty"`
	DurationS  float64         `json:"duration_s"`
	Incidents  []replayedFound `json:"incidents"`
	// Error says where the capture is broken; what came before is judged.
	Error string `json:"error,omitempty"`
}

// replayedFound is one incident. Times are seconds from the first packet on, shares 0 to 1; rates are per second.
type replayedFound struct {
	Target              string           `json:"target"`
	Direction           string           `json:"direction"`
	Vectors             []string         `json:"vectors"`
	OnsetS              float64          `json:"onset_s"`
	DecidedS            float64          `json:"decided_s"`
	EndedS              *float64         `json:"ended_s"` // null while it goes on
	Reason              string           `json:"reason"`
	Rates               []replayedVector `json:"rates"`
	Signature           string           `json:"signature"`
	Rules               []string         `json:"rules"`
	Says                string           `json:"says"`
	PredictedCoverage   float64          `json:"predicted_coverage"`
	PredictedCollateral float64          `json:"predicted_collateral"`
	Confidence          float64          `json:"confidence"`
	Coverage            float64          `json:"coverage"`
	Collateral          float64          `json:"collateral"`
	AttackPackets       uint64           `json:"attack_packets"`
	OtherPackets        uint64           `json:"other_packets"`
	Action              string           `json:"action"`
	Why                 string           `json:"why"`
}

type replayedVector struct {
	Vector  string  `json:"vector"`
	PeakPPS float64 `json:"peak_pps"`
	PeakBPS float64 `json:"peak_bps"`
}

func (c *cli) replayCommand() *cobra.Command {
	var policyFile, targets, tunnels string
	var loops int
	var asJSON, fromJournal bool
	var from, to string
	cmd := &cobra.Command{
		Use:   "replay CAPTURE|DIR",
		Short: "What the system would have made of captures; asks nobody and needs no privilege",
		Long: `Runs captures (pcap, pcapng, also compressed) through classification, view, detection, signature, policy and safety kernel,
and says which incidents there would have been, when, and what would have been announced. Of a DIR all captures below it
are taken, in order of their names. Coverage and collateral are measured on the very packets.

With --journal the argument is the directory in which a controller keeps its sensors' reports: an incident of last night, as it
was or under another policy.

Without --targets every address is a target. With it packets to the prefixes are inbound and packets from them outbound.`,
		Example: `  tmctl replay attack.pcap
  tmctl replay --journal /var/lib/trafficmonitor/journal --from 2026-11-28T02:00:00Z --policy new.yaml
  tmctl replay captures/ --targets 203.0.113.0/24,2001:db8::/32 --policy new.yaml --json`,
		Args: oneArg("a capture or a directory of captures"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if loops < 1 || loops > 1_000_000 {
				return usage("--loop %d: must be 1 to 1000000", loops)
			}
			o := replay.Options{Policy: policy.Default()}
			var err error
			if policyFile != "" {
				if o.Policy, err = policy.Load(policyFile); err != nil {
					return &exitError{ExitUsage, err}
				}
			}
			if o.Targets, err = prefixes(targets); err != nil {
				return usage("--targets: %v", err)
			}
			if tunnels != "" {
				if o.Decapsulate, err = classify.ParseTunnels(strings.Split(tunnels, ",")); err != nil {
					return usage("--decapsulate: %v", err)
				}
			}
			c.wantJSON(asJSON)
			if fromJournal {
				return c.replayJournal(cmd.Context(), o, args[0], from, to)
			}
			if from != "" || to != "" {
				return usage("--from and --to are for --journal: a capture is played whole")
			}
			files, whole, err := capturesBelow(args[0])
			if err != nil {
				return usage("%v", err)
			}
			return c.replayAll(cmd.Context(), o, files, whole, loops)
		},
	}
	f := cmd.Flags()
	f.StringVar(&policyFile, "policy", "", "policy to judge by; none means the built-in default")
	f.StringVar(&targets, "targets", "", "protected prefixes, with commas between them; none means every address")
	f.StringVar(&tunnels, "decapsulate", "", "tunnels to look into, with commas between them: "+strings.Join(classify.TunnelNames, ", "))
	f.IntVar(&loops, "loop", 1, "how often each capture is played, with time stamps that go on")
	f.BoolVar(&asJSON, "json", false, "one JSON object per capture, a line each")
	f.BoolVar(&fromJournal, "journal", false, "the argument is a controller's journal, data_dir/journal or a copy of it: what its sensors reported")
	f.StringVar(&from, "from", "", "of a journal: from this time on, such as 2026-11-28T02:00:00Z")
	f.StringVar(&to, "to", "", "of a journal: up to this time")
	_ = cmd.MarkFlagFilename("policy")
	return cmd
}

func prefixes(list string) (out []netip.Prefix, err error) {
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		p, err := route.ParsePrefix(part)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// capturesBelow returns the files to read; whole says that they are all of a directory, in which other files may lie.
func capturesBelow(root string) (files []string, whole bool, err error) {
	info, err := os.Stat(root)
	if err != nil {
		return nil, false, err
	}
	if !info.IsDir() {
		return []string{root}, false, nil
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s: no files", root)
	}
	slices.Sort(files)
	return files, true, err
}

// replayAll judges the files and says so, each as soon as it is done. What is no capture is passed over among others,
// and an error when it was asked for by name.
func (c *cli) replayAll(ctx context.Context, o replay.Options, files []string, whole bool, loops int) error {
	captures, incidents, other := 0, 0, 0
	for _, file := range files {
		out, err := replayOne(ctx, o, file, loops)
		if ctx.Err() != nil {
			return failed("interrupted at %s", file)
		}
		if err != nil {
			if whole && out == nil {
				other++
				continue
			}
			return failed("%w", err)
		}
		captures++
		incidents += len(out.Incidents)
		if err := c.showReplayed(out); err != nil {
			return err
		}
	}
	if captures == 0 {
		return failed("%s: none of %d files is a capture", filepath.Dir(files[0]), len(files))
	}
	if whole && !c.json() {
		text := fmt.Sprintf("%d captures, %d incidents", captures, incidents)
		if other > 0 {
			text += fmt.Sprintf("; %d other files passed over", other)
		}
		return c.write(text + "\n")
	}
	return nil
}

// replayOne judges one capture. A nil result says that the file is none.
func replayOne(ctx context.Context, o replay.Options, file string, loops int) (*replayed, error) {
	out := &replayed{File: file, Loops: loops, Incidents: []replayedFound{}}
	var last *replay.CaptureFile
	first, err := replay.Capture(file)
	if err != nil {
		return nil, err
	}
	_ = first.Close()
	open := replay.Loop(func() (replay.Source, error) {
		if last != nil {
			out.Unreadable = max(out.Unreadable, last.Unreadable)
		}
		var err error
		last, err = replay.Capture(file)
		return last, err
	}, loops)
	r, err := replay.Run(ctx, o, open)
	if r == nil {
		return nil, err
	}
	if err != nil {
		out.Error = err.Error()
	}
	out.Unreadable = max(out.Unreadable, last.Unreadable)
	out.Packets, out.Malformed, out.NotIP, out.Uncounted = r.Packets+out.Unreadable*loops, r.Malformed, r.NotIP, r.Refused
	out.DurationS = seconds(r.Duration)
	for _, inc := range r.Incidents {
		out.Incidents = append(out.Incidents, found(r.First, inc))
	}
	return out, nil
}

func (c *cli) wantJSON(want bool) {
	if want {
		c.output = "json"
	}
}

// replayJournal judges what a controller's sensors reported.
func (c *cli) replayJournal(ctx context.Context, o replay.Options, dir, from, to string) error {
	span, err := timeSpan(from, to)
	if err != nil {
		return err
	}
	r, damaged, err := replay.Journal(ctx, o, func() (*journal.Reader, error) {
		j, err := journal.Open(dir)
		if err == nil {
			j.Between(span[0], span[1])
		}
		return j, err
	})
	if err != nil {
		return failed("journal %s: %w", dir, err)
	}
	if r.Reports == 0 {
		return failed("journal %s: it holds no report%s", dir, map[bool]string{true: " of that time"}[from+to != ""])
	}
	out := &replayed{File: dir, Packets: r.Packets, Reports: r.Reports, Loops: 1, DurationS: seconds(r.Duration), Incidents: []replayedFound{}}
	if err := errors.Join(damaged...); err != nil {
		out.Error = err.Error()
	}
	for _, inc := range r.Incidents {
		out.Incidents = append(out.Incidents, found(r.First, inc))
	}
	return c.showReplayed(out)
}

// timeSpan reads --from and --to; what is not given is zero.
func timeSpan(from, to string) (span [2]time.Time, err error) {
	for i, text := range []string{from, to} {
		if text == "" {
			continue
		}
		if span[i], err = time.Parse(time.RFC3339, text); err != nil {
			return span, usage("--%s %q: write it as 2026-11-28T02:00:00Z or with an offset", []string{"from", "to"}[i], text)
		}
	}
	if !span[1].IsZero() && !span[0].Before(span[1]) {
		return span, usage("--from %s is not before --to %s", from, to)
	}
	return span, nil
}

func found(first time.Time, inc replay.Incident) replayedFound {
	f := replayedFound{
		Target: inc.Target.String(), Direction: inc.Direction.String(), OnsetS: seconds(inc.Onset.Sub(first)), DecidedS: seconds(inc.Decided.Sub(first)),
		Reason: inc.Reason, Says: inc.Says, Rules: []string{}, Vectors: []string{}, Rates: []replayedVector{},
		PredictedCoverage: share(inc.PredictedCoverage), PredictedCollateral: share(inc.PredictedCollateral), Confidence: share(inc.Confidence),
		Coverage: share(inc.Coverage), Collateral: share(inc.Collateral), AttackPackets: inc.AttackPackets, OtherPackets: inc.OtherPackets,
		Action: inc.Action, Why: inc.Why,
	}
	if !inc.Ended.IsZero() {
		at := seconds(inc.Ended.Sub(first))
		f.EndedS = &at
	}
	for _, m := range inc.Vectors {
		f.Vectors = append(f.Vectors, m.Vector.String())
		f.Rates = append(f.Rates, replayedVector{m.Vector.String(), math.Round(m.PeakPPS), math.Round(m.PeakBPS)})
	}
	for _, m := range inc.Rules {
		f.Rules = append(f.Rules, m.String())
	}
	if len(f.Rules) > 0 {
		f.Signature = f.Rules[0]
	}
	return f
}

// seconds and share round to microseconds and millionths, so that the same capture gives the same text everywhere.
func seconds(d time.Duration) float64 { return float64(d.Round(time.Microsecond).Microseconds()) / 1e6 }

func share(x float64) float64 { return math.Round(x*1e6) / 1e6 }

func (c *cli) showReplayed(r *replayed) error {
	if c.json() {
		b, err := json.Marshal(r)
		if err != nil {
			return failed("write JSON: %w", err)
		}
		return c.write(string(b) + "\n")
	}
	var b strings.Builder
	if r.Reports > 0 {
		fmt.Fprintf(&b, "%s: %d reports and %d samples of %s", r.File, r.Reports, r.Packets, time.Duration(r.DurationS*1e9).Round(time.Second))
	} else {
		fmt.Fprintf(&b, "%s: %d packets in %.3f s", r.File, r.Packets, r.DurationS)
	}
	for _, n := range []struct {
		count int
		says  string
	}{{r.Malformed, "malformed"}, {r.NotIP, "neither IPv4 nor IPv6"}, {r.Unreadable, "of a link type that is not read"}} {
		if n.count > 0 {
			fmt.Fprintf(&b, ", %d %s", n.count, n.says)
		}
	}
	if r.Loops > 1 {
		fmt.Fprintf(&b, ", played %d times with shifted time stamps", r.Loops)
	}
	if r.Uncounted > 0 {
		fmt.Fprintf(&b, ", %d not counted: too many addresses", r.Uncounted)
	}
	fmt.Fprintf(&b, ": %s\n", plural(len(r.Incidents), "incident"))
	if r.Error != "" {
		fmt.Fprintf(&b, "  broken: %s; what came before is judged\n", r.Error)
	}
	for _, f := range r.Incidents {
		fmt.Fprintf(&b, "  %s %s %s, decided %.3f s after the first packet, %.0f ms after its onset\n", f.Direction, strings.Join(f.Vectors, "+"), f.Target, f.DecidedS, (f.DecidedS-f.OnsetS)*1000)
		fmt.Fprintf(&b, "    why        %s\n", f.Reason)
		for i, rule := range f.Rules {
			if i == 0 {
				fmt.Fprintf(&b, "    signature  %s\n", rule)
			} else {
				fmt.Fprintf(&b, "               %s\n", rule)
			}
		}
		fmt.Fprintf(&b, "    says       %s\n", f.Says)
		fmt.Fprintf(&b, "    coverage   %.2f %% of %d packets (predicted %.2f %%)\n", f.Coverage*100, f.AttackPackets, f.PredictedCoverage*100)
		predicted := "unknown: nothing seen before"
		if f.Confidence > 0 {
			predicted = fmt.Sprintf("predicted %.2f %%", f.PredictedCollateral*100)
		}
		fmt.Fprintf(&b, "    collateral %.2f %% of %d packets (%s)\n", f.Collateral*100, f.OtherPackets, predicted)
		fmt.Fprintf(&b, "    action     %s: %s\n", f.Action, f.Why)
	}
	return c.write(b.String())
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
