package enforce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Options says where a Shim gets its rules and how it reaches the kernel. All but Log and Poll are required.
type Options struct {
	// Rules returns the FlowSpec rules in force at the router, both families, in any order. An error leaves what is
	// enforced as it is.
	Rules func(context.Context) ([]route.Route, error)
	// Changed holds a value when the rules may have changed.
	Changed <-chan struct{}
	// Poll is how often the rules are read without a change; 0 means every 250 ms.
	Poll time.Duration
	// NFT runs nft with arguments and standard input, in the router's namespace.
	NFT func(ctx context.Context, stdin string, args ...string) (string, error)
	Log *slog.Logger
}

// Shim keeps the kernel's table equal to the router's rules.
type Shim struct {
	o Options

	mu      sync.Mutex
	rules   []route.Route // guarded by mu: what is in the table, in order
	applied time.Time     // guarded by mu: when the table was last replaced
	err     error         // guarded by mu: why the last round did nothing
	news    chan struct{} // guarded by mu: closed and replaced after each round
}

// New makes a shim; Run sets it to work.
func New(o Options) *Shim {
	if o.Poll == 0 {
		o.Poll = 250 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Shim{o: o, news: make(chan struct{})}
}

// Run enforces until ctx ends. What is in force then stays in force, as it does in a router whose control plane dies.
func (s *Shim) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.round(ctx)
		s.mu.Lock()
		changed := err != nil && (s.err == nil || s.err.Error() != err.Error())
		s.err = err
		close(s.news)
		s.news = make(chan struct{})
		s.mu.Unlock()
		if changed && ctx.Err() == nil {
			s.o.Log.Error("flowspec rules are not enforced as the router has them", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-s.o.Changed:
		case <-time.After(s.o.Poll):
		}
	}
}

func (s *Shim) round(ctx context.Context) error {
	rules, err := s.o.Rules(ctx)
	if err != nil {
		return fmt.Errorf("read the router's rules: %w", err)
	}
	for i := range rules {
		rules[i] = rules[i].Canonical()
	}
	Sort(rules)
	rules = slices.CompactFunc(rules, route.Route.Equal)
	s.mu.Lock()
	old, first := s.rules, s.applied.IsZero()
	s.mu.Unlock()
	if !first && slices.EqualFunc(rules, old, route.Route.Equal) {
		return nil
	}
	script, err := Script(rules, old)
	if err != nil {
		return err
	}
	if out, err := s.o.NFT(ctx, script, "-f", "-"); err != nil {
		return fmt.Errorf("nft refused the table: %w\n%s\n%s", err, out, script)
	}
	now := time.Now()
	s.mu.Lock()
	s.rules, s.applied = rules, now
	s.mu.Unlock()
	s.o.Log.Info("flowspec rules enforced", "rules", len(rules), "before", len(old))
	return nil
}

// State returns the rules in force, in the order they are tried, since when they are, and why the router's present rules
// are not in force, if they are not.
func (s *Shim) State() (rules []route.Route, since time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rules), s.applied, s.err
}

// Wait waits until want says so of the rules in force, and returns when they were put in force.
func (s *Shim) Wait(ctx context.Context, want func(rules []route.Route) bool) (time.Time, error) {
	for {
		s.mu.Lock()
		rules, since, err, news := s.rules, s.applied, s.err, s.news
		s.mu.Unlock()
		if !since.IsZero() && want(rules) {
			return since, nil
		}
		select {
		case <-ctx.Done():
			return since, errors.Join(fmt.Errorf("wait for enforcement; in force are %v: %w", rules, ctx.Err()), err)
		case <-news:
		}
	}
}

// Counter counts packets and bytes (from the IP header on).
type Counter struct{ Packets, Bytes uint64 }

// Counters is what a rule did since it was first put in force.
type Counters struct{ Matched, Dropped Counter }

// Counters reads the counters of the rules in force from the kernel, by Key.
func (s *Shim) Counters(ctx context.Context) (map[string]Counters, error) {
	out, err := s.o.NFT(ctx, "", "-j", "list", "counters", "table", "inet", Table)
	if err != nil {
		return nil, err
	}
	return parseCounters(out)
}

func parseCounters(text string) (map[string]Counters, error) {
	var doc struct {
		NFTables []struct {
			Counter *struct {
				Name           string
				Packets, Bytes uint64
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return nil, fmt.Errorf("read nft's counters: %w", err)
	}
	out := map[string]Counters{}
	for _, x := range doc.NFTables {
		if x.Counter == nil {
			continue
		}
		kind, key, _ := strings.Cut(x.Counter.Name, "_")
		c := out[key]
		v := Counter{x.Counter.Packets, x.Counter.Bytes}
		switch kind {
		case "m":
			c.Matched = v
		case "d":
			c.Dropped = v
		default:
			return nil, fmt.Errorf("nft shows a counter %q that is not ours", x.Counter.Name)
		}
		out[key] = c
	}
	return out, nil
}
