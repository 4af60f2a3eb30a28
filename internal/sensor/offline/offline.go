// Package offline counts the packets of a capture as a sensor would: with the very same programs in the kernel, or with
// the reference classifier in Go where there is no privilege to load them, or with both, to see that they agree.
package offline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/capture"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Engine says who counts.
type Engine string

// The engines.
const (
	// Kernel is the sensor's programs.
	Kernel Engine = "bpf"
	// Reference is the classifier in Go.
	Reference Engine = "go"
	// Both compares them.
	Both Engine = "both"
	// Auto is Both with the privilege, else Reference.
	Auto Engine = "auto"
)

// Engines are their names.
var Engines = []Engine{Auto, Kernel, Reference, Both}

// Options say what to count.
type Options struct {
	File   string
	Engine Engine
	// Targets are the protected prefixes. Packets to them are inbound, packets from them outbound. Without any, every
	// destination is a target, and nothing is outbound.
	Targets []netip.Prefix
	// Decapsulate is the tunnels to look into.
	Decapsulate classify.Tunnels
	// Ports are the source ports of reflection vectors; nil means those of the vector table.
	Ports classify.Ports
}

// Key is what packets are counted under.
type Key struct {
	Target    netip.Prefix // a host's as long as its address
	Direction vector.Direction
	Vector    vector.ID
}

// Tally is packets and bytes, from the IP header on.
type Tally struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func (t *Tally) add(packets, bytes uint64) { t.Packets, t.Bytes = t.Packets+packets, t.Bytes+bytes }

// Result is what was counted.
type Result struct {
	Engine Engine
	// Packets were read; Unreadable of them have a link type that is not read.
	Packets, Unreadable int
	// NotIP, Headless and Unprotected are counted for no target: neither IPv4 nor IPv6, too short to have one, or no
	// target's.
	NotIP, Headless, Unprotected uint64
	// NotRun is packets the kernel's test run does not take: cut inside of the IP header, or too long for it.
	NotRun uint64
	Counts map[Key]Tally
	// Differs says in which counts the engines do not agree.
	Differs []string
	// Beyond is the destinations, the least busy ones, that the kernel's tables had no room for: with Both they are counted
	// by the reference alone, with Kernel their packets are Unprotected.
	Beyond int
	// Broken says where the capture is; what came before is counted.
	Broken error
	// WhyNotKernel says why Auto took Reference.
	WhyNotKernel error
}

// maxTargets bounds the destinations that become targets when none are named, and the hosts counted one by one.
const maxTargets = 1 << 14

// errOnce says why the programs are not asked.
var errOnce = errors.New("it is no regular file, and the programs count in a second reading: copy it to one, or let the reference classifier count (go)")

// Count reads the capture.
func Count(ctx context.Context, o Options) (*Result, error) {
	if o.Ports == nil {
		o.Ports = classify.DefaultPorts()
	}
	var once error
	if i, err := os.Stat(o.File); err == nil && !i.Mode().IsRegular() && !i.IsDir() && o.Engine != Reference {
		if once = fmt.Errorf("%s: %w", o.File, errOnce); o.Engine != Auto {
			return nil, once
		}
	}
	named := len(o.Targets) > 0
	first, hosts, err := reference(ctx, o)
	if err != nil || o.Engine == Reference || once != nil {
		if err == nil {
			first.WhyNotKernel = once
		}
		return first, err
	}
	targets := o.Targets
	if !named {
		targets = hosts[:min(len(hosts), maxTargets/2)]
	}
	k, err := load(o, targets, min(4*len(hosts)+64, 8*maxTargets))
	if err != nil {
		if o.Engine == Auto && errors.Is(err, os.ErrPermission) {
			first.WhyNotKernel = err
			return first, nil
		}
		return nil, err
	}
	defer k.close()
	second, err := k.count(ctx, o, named)
	if err != nil {
		return nil, err
	}
	if !named {
		second.Beyond = len(hosts) - len(targets)
	}
	if o.Engine == Kernel {
		return second, nil
	}
	first.Engine, first.NotRun, first.Beyond = Both, second.NotRun, second.Beyond
	compared := first.Counts
	if second.Beyond > 0 {
		compared = only(first.Counts, targets)
	}
	first.Differs = differences(compared, second.Counts)
	return first, nil
}

// each reads every packet as the engines see it: what a capture cut off behind the headers is taken to be zeros.
func each(ctx context.Context, o Options, r *Result, do func(frame []byte) error) error {
	f, err := os.Open(o.File)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := capture.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", o.File, err)
	}
	var padded []byte
	for ctx.Err() == nil {
		p, err := c.Next()
		var unreadable *capture.UnreadableError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &unreadable):
			r.Packets++
			r.Unreadable++
			continue
		case err != nil:
			r.Broken = err
			return nil
		}
		r.Packets++
		frame := p.Data
		if missing := p.Wire - len(frame); missing > 0 && p.Wire <= capture.MaxPacket {
			whole := classify.Classify(classify.Frame{Data: frame, Wire: p.Wire, Decapsulate: o.Decapsulate}, o.Ports)
			if whole.Vector != vector.Malformed || whole.Reason != classify.Short {
				padded = append(append(padded[:0], frame...), make([]byte, missing)...)
				frame = padded
			}
		}
		if err := do(frame); err != nil {
			return fmt.Errorf("packet %d: %w", p.Number, err)
		}
	}
	return ctx.Err()
}

// directions are the ways a packet is looked at.
func (o Options) directions() []vector.Direction {
	if len(o.Targets) == 0 {
		return []vector.Direction{vector.Inbound}
	}
	return []vector.Direction{vector.Inbound, vector.Outbound}
}

// protects tells whether addr is a target.
func (o Options) protects(addr netip.Addr) bool {
	return len(o.Targets) == 0 || slices.ContainsFunc(o.Targets, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// reference counts in Go, and returns the targets, the busiest first.
func reference(ctx context.Context, o Options) (*Result, []netip.Prefix, error) {
	r := &Result{Engine: Reference, Counts: map[Key]Tally{}}
	packets := map[netip.Prefix]uint64{}
	err := each(ctx, o, r, func(frame []byte) error {
		for _, d := range o.directions() {
			c := classify.Classify(classify.Frame{Data: frame, Direction: d, Decapsulate: o.Decapsulate}, o.Ports)
			switch {
			case !c.IP:
				if d == vector.Inbound {
					r.NotIP++
				}
			case !c.Target.IsValid():
				if d == vector.Inbound {
					r.Headless++
				}
			case !o.protects(c.Target):
				if d == vector.Inbound {
					r.Unprotected++
				}
			default:
				key := Key{host(c.Target), d, c.Vector}
				t := r.Counts[key]
				t.add(uint64(c.Segments), uint64(c.Length))
				r.Counts[key] = t
				packets[key.Target]++
			}
		}
		return nil
	})
	targets := slices.SortedFunc(maps.Keys(packets), func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(packets[b], packets[a]), a.Addr().Compare(b.Addr()))
	})
	return r, targets, err
}

// only returns the counts of some targets.
func only(counts map[Key]Tally, targets []netip.Prefix) map[Key]Tally {
	keep := map[netip.Prefix]bool{}
	for _, t := range targets {
		keep[t] = true
	}
	out := maps.Clone(counts)
	maps.DeleteFunc(out, func(k Key, _ Tally) bool { return !keep[k.Target] })
	return out
}

// differences compares the sums of each direction and vector, and every host the kernel counted one by one.
func differences(ours, theirs map[Key]Tally) (list []string) {
	type class struct {
		vector.Direction
		vector.ID
	}
	sums := map[class][2]Tally{}
	for i, counts := range []map[Key]Tally{ours, theirs} {
		for k, t := range counts {
			c := class{k.Direction, k.Vector}
			s := sums[c]
			s[i].add(t.Packets, t.Bytes)
			sums[c] = s
		}
	}
	for _, c := range slices.SortedFunc(maps.Keys(sums), func(a, b class) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.ID, b.ID))
	}) {
		if s := sums[c]; s[0] != s[1] {
			list = append(list, fmt.Sprintf("%s %s: go %+v, bpf %+v", c.Direction, c.ID, s[0], s[1]))
		}
	}
	for k, t := range theirs {
		// What found no slot in time was counted for its prefix, so a host may have less there, never more.
		if k.Target.IsSingleIP() && ours[k].Packets < t.Packets {
			list = append(list, fmt.Sprintf("%s %s %s: go %+v, bpf %+v", k.Target.Addr(), k.Direction, k.Vector, ours[k], t))
		}
	}
	return list
}
