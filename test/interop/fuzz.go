package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// Random rules, of every component and action at once, go through the speaker to each router and are read back. What the
// deviations say of a router is left out of the comparison, by the same table the cells are marked by.

// Fuzz is what became of the random rules at one router.
type Fuzz struct {
	Router   string `json:"router"`
	Version  string `json:"version"`
	Seed     uint64 `json:"seed"`
	Rules    int    `json:"rules"`
	Compared int    `json:"compared"` // read back and as meant, match and action
	InPart   int    `json:"in_part"`  // of these, those of which a deviation spoils the action: the match is
	Left     int    `json:"left_out"` // a deviation says that the router does not hold them
	// Refused are those that our safety kernel refuses, by invariant.
	Refused map[string]int `json:"refused"`
	Found   []Difference   `json:"found"`
}

// Difference is a rule a router shows otherwise than meant.
type Difference struct {
	Rule     string `json:"rule"`
	Hex      string `json:"hex"`
	Smallest string `json:"smallest"` // the smallest rule found that still differs
	Hexed    string `json:"smallest_hex"`
	Note     string `json:"note"` // what is wrong with the smallest
}

func (d Difference) String() string {
	return fmt.Sprintf("%s\n\t%s\n\tshrinks to: %s\n\t%s\n\t%s", d.Rule, d.Hex, d.Smallest, d.Hexed, d.Note)
}

const (
	fixedRules = 1000 // in a whole run, besides the cells
	fuzzBatch  = 400
	mostFound  = 5 // differences that are shrunk at one router; a defect of a decoder makes hundreds
)

// left reports whether a deviation says that a router does not hold a route, and inPart whether one says that it shows
// another action.
func left(router string, r route.Route) (left, inPart bool) {
	for _, d := range Deviations {
		if d.holds(router, r) {
			inPart = true
			left = left || !d.ByAction || d.Outcome != readsOther
		}
	}
	return left, inPart && !left
}

// wrongIn says what is wrong with a random rule at a router, empty when nothing is or when our kernel refused it.
func wrongIn(x Result) string {
	_, inPart := left(x.Router, x.cell.Route)
	switch {
	case refusedByUs(x), x.Outcome() == asMeant:
		return ""
	case inPart && x.Outcome() == readsOther && x.matches && x.Withdrawn:
		return ""
	}
	return x.Outcome() + ": " + x.Note
}

// refusedByUs reports whether our safety kernel refused a rule as it is meant to: one that could cut BGP off.
func refusedByUs(x Result) bool { return refusal(x) == string(safety.BGP) }

// refusal is the invariant for which our speaker refused a rule; empty when it did not.
func refusal(x Result) string {
	if rest, ok := strings.CutPrefix(x.Note, refusedNote); ok && !x.Sent {
		invariant, _, _ := strings.Cut(rest, ":")
		return invariant
	}
	return ""
}

// octets are the NLRI and the extended communities of a route, in hexadecimal.
func octets(r route.Route) string {
	if r.IsBlackhole() {
		return r.Prefix().String()
	}
	b, err := route.AppendFlowSpec(nil, r.Match)
	if err != nil {
		return err.Error()
	}
	ec, ec6 := r.Action.ExtendedCommunities()
	return fmt.Sprintf("%x %x%x", b, ec, ec6)
}

// fuzz sends the rules of a seed to one router, and shrinks what differs.
func (x *runner) fuzz(ctx context.Context, seed uint64, cells []Cell) (f Fuzz, err error) {
	f = Fuzz{Router: x.im.Name, Version: x.version, Seed: seed, Rules: len(cells), Refused: map[string]int{}, Found: []Difference{}}
	if x.negotiated, err = x.router.Negotiated(ctx, "speaker"); err != nil {
		return f, err
	}
	cells = slices.DeleteFunc(slices.Clone(cells), func(c Cell) bool { l, _ := left(x.im.Name, c.Route); return l })
	f.Left = f.Rules - len(cells)
	for batch := range slices.Chunk(cells, fuzzBatch) {
		results, err := x.try(ctx, batch)
		if err != nil {
			return f, err
		}
		for _, r := range results {
			_, inPart := left(x.im.Name, r.cell.Route)
			switch wrong := wrongIn(r); {
			case refusedByUs(r):
				f.Refused[refusal(r)]++
			case wrong == "":
				f.Compared++
				if inPart {
					f.InPart++
				}
			case len(f.Found) < mostFound:
				d := Difference{Rule: r.cell.Route.String(), Hex: octets(r.cell.Route)}
				small, note, err := x.shrink(ctx, r.cell, wrong)
				if err != nil {
					return f, err
				}
				d.Smallest, d.Hexed, d.Note = small.String(), octets(small), note
				f.Found = append(f.Found, d)
				x.log("%s: seed %d: %v", x.im.Name, seed, d)
			}
		}
		if len(f.Found) == mostFound {
			x.log("%s: the rest of the rules is not tried", x.im.Name)
			return f, nil
		}
	}
	return f, nil
}

// shrink looks for the smallest rule that goes wrong at the router as a given one does, at most a few dozen steps.
func (x *runner) shrink(ctx context.Context, c Cell, wrong string) (route.Route, string, error) {
	smallest, note := c.Route, wrong
	for range 40 {
		var cells []Cell
		for i, r := range smaller(smallest) {
			if l, _ := left(x.im.Name, r); !l {
				cells = append(cells, randomCell(place(r, i), i))
			}
		}
		// In small batches: where what is wrong costs the session, each batch is halved until it is found.
		found := false
		for batch := range slices.Chunk(cells, 16) {
			results, err := x.try(ctx, batch)
			if err != nil {
				return smallest, note, err
			}
			for _, r := range results {
				if w := wrongIn(r); w != "" && !found {
					smallest, note, found = r.cell.Route, w, true
				}
			}
			if found {
				break
			}
		}
		if !found {
			break
		}
	}
	return smallest, note, nil
}

// fuzzed sends n random rules of a seed to all routers at the same time.
func fuzzed(ctx context.Context, l *lab.Lab, program string, chosen []implementation, seed uint64, n int) ([]Fuzz, error) {
	cells := randomCells(seed, n)
	out, errs := make([]Fuzz, len(chosen)), make([]error, len(chosen))
	var wg sync.WaitGroup
	for i, im := range chosen {
		wg.Go(func() {
			begin := time.Now()
			starting, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			p, err := newPair(starting, l, program, 100+i, uint32(65100+i), im)
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", im.Name, err)
				return
			}
			x := &runner{pair: p, im: im, log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }}
			out[i], err = x.fuzz(ctx, seed, cells)
			f := out[i]
			fmt.Printf("%s %s: %d random rules of seed %d in %v: %d as meant (%d of them in part), %d left out, %v refused by us, %d wrong\n",
				im.Name, f.Version, f.Rules, seed, time.Since(begin).Round(100*time.Millisecond), f.Compared, f.InPart, f.Left, f.Refused, len(f.Found))
			if err = errors.Join(err, p.stop(ctx)); err != nil {
				errs[i] = fmt.Errorf("%s, seed %d: %w", im.Name, seed, err)
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// wrongFuzz says what is wrong with what became of the random rules.
func wrongFuzz(all []Fuzz) (out []string) {
	for _, f := range all {
		for _, d := range f.Found {
			out = append(out, fmt.Sprintf("%s, seed %d: %v", f.Router, f.Seed, d))
		}
		// A differential that compares nothing finds nothing. OpenBGPD takes blackholes only.
		if least := f.Rules / 3; f.Router != "OpenBGPD" && f.Compared < least && len(f.Found) == 0 {
			out = append(out, fmt.Sprintf("%s, seed %d: only %d of %d random rules were compared", f.Router, f.Seed, f.Compared, f.Rules))
		}
	}
	return out
}
