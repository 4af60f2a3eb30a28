package main

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// window is the span in which sensors compare with limits.
const window = 32 * time.Millisecond

// score is what came of one scenario.
type score struct {
	Scenario string   `json:"scenario"`
	Says     string   `json:"says"`
	Packets  int      `json:"packets"`
	Attacks  []found  `json:"attacks,omitempty"`
	False    []string `json:"false_incidents,omitempty"` // that belong to no attack, in words
}

// found is what came of one attack.
type found struct {
	Target    netip.Prefix `json:"target"`
	Direction string       `json:"direction"`
	PPS       float64      `json:"pps"`
	Packets   int          `json:"packets"` // in the attack's direction
	Separable bool         `json:"separable"`
	Small     bool         `json:"small"` // below the size from which on it has to be found
	Vectors   []string     `json:"vectors"`

	Detected bool     `json:"detected"`
	More     int      `json:"more_incidents"` // besides the first
	Named    []string `json:"named,omitempty"`
	Accurate bool     `json:"accurate"` // all vectors are named, and no other
	// DelayMS is from the attack's first packet to the decision, Windows the same in spans of 32 ms that began.
	DelayMS float64 `json:"delay_ms"`
	Windows int     `json:"windows"`
	// Coverage is the share of the attack's packets after the decision that the signature matches; Judged is how many
	// those are. Collateral is the share of the target's benign packets of that direction that it matches.
	Judged     int     `json:"judged_packets"`
	Coverage   float64 `json:"coverage"`
	Benign     int     `json:"benign_packets"`
	Collateral float64 `json:"collateral"`
	Signature  string  `json:"signature,omitempty"`
	Action     string  `json:"action,omitempty"`
}

// judge runs a scenario and says what was found of it.
func judge(ctx context.Context, s scenario.Scenario, r runner) (score, error) {
	incidents, err := r.run(ctx, s)
	if err != nil {
		return score{}, err
	}
	out := score{Scenario: s.Name, Says: s.Says}
	of := assign(s, incidents)
	m := measurement{scenario: s, incidents: incidents, of: of.attacks, matches: r.matches}
	if err := m.run(ctx); err != nil {
		return score{}, err
	}
	out.Packets = m.packets
	for i, a := range s.Attacks {
		out.Attacks = append(out.Attacks, describe(a, incidents, of.attacks[i], &m.counts[i]))
	}
	for _, i := range of.none {
		x := incidents[i]
		out.False = append(out.False, x.target.String()+" "+x.direction.String()+" "+join(x.vectors)+": "+x.reason)
	}
	return out, nil
}

func describe(a scenario.Attack, incidents []incident, mine []int, c *count) found {
	f := found{
		Target: a.Target, Direction: a.Direction.String(), PPS: a.PPS, Packets: c.attack, Separable: a.Separable, Small: a.Small,
		Vectors: names(a.Vectors), Detected: len(mine) > 0, Judged: c.after, Benign: c.benign,
	}
	if !f.Detected {
		return f
	}
	f.More = len(mine) - 1
	first := incidents[mine[0]]
	var named []vector.ID
	for _, i := range mine {
		named = append(named, incidents[i].vectors...)
	}
	slices.Sort(named)
	named = slices.Compact(named)
	f.Named, f.Accurate = names(named), accurate(a, named)
	f.DelayMS = max(0, float64(first.decided.Sub(c.first))/1e6)
	f.Windows = int((first.decided.Sub(c.first) + window - 1) / window)
	f.Coverage, f.Collateral = share(c.hit, c.after), share(c.benignHit, c.benign)
	f.Signature, f.Action = first.says, first.action
	return f
}

// accurate tells whether all of the attack's vectors are named and none that has no part in it. Everything together may
// be named besides: a large attack passes that limit, too.
func accurate(a scenario.Attack, named []vector.ID) bool {
	for _, v := range a.Vectors {
		if !slices.Contains(named, v) {
			return false
		}
	}
	for _, v := range named {
		if v != vector.Total && !slices.Contains(a.Vectors, v) && !slices.Contains(a.Beside, v) {
			return false
		}
	}
	return true
}

// assignment says which incidents belong to which attack, and which to none.
type assignment struct {
	attacks [][]int // by attack, in order of decision
	none    []int
}

// late is how much later than an attack's last packet an incident of it may begin.
const late = time.Second

// assign gives each incident to the attacks whose target, direction and time it shares. What rides along with an attack in
// the other direction, such as the questions that a reflector answers, is neither a find nor a mistake.
func assign(s scenario.Scenario, incidents []incident) assignment {
	out := assignment{attacks: make([][]int, len(s.Attacks))}
	for i, x := range incidents {
		belongs := false
		for j, a := range s.Attacks {
			begin, end := scenario.Epoch.Add(a.Start-window), scenario.Epoch.Add(a.End+late)
			if !a.Target.Overlaps(x.target) || x.onset.After(end) || x.decided.Before(begin) || !x.ended.IsZero() && x.ended.Before(begin) {
				continue
			}
			if x.direction == a.Direction {
				out.attacks[j] = append(out.attacks[j], i)
				belongs = true
			} else if aside(a, x.vectors) {
				belongs = true
			}
		}
		if !belongs {
			out.none = append(out.none, i)
		}
	}
	for _, of := range out.attacks {
		slices.SortStableFunc(of, func(a, b int) int { return incidents[a].decided.Compare(incidents[b].decided) })
	}
	return out
}

func aside(a scenario.Attack, vectors []vector.ID) bool {
	return !slices.ContainsFunc(vectors, func(v vector.ID) bool { return !slices.Contains(a.Beside, v) })
}

func share(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
