package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/store"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// Steps that are due at once are stored at once; of what is not stored nothing is said, and the next term takes it again.
func TestStepsAreStoredAtOnce(t *testing.T) {
	const n = 5
	pol, err := policy.Parse("p.yaml", []byte("version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\nresponses: [{vectors: all-reflection, ladder: [{action: rate-limit 1 Mbps}, {action: discard, after: 5s, if: evidence.reduction < 0.9}]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	runWith(t, func(o *Options) { o.Policy = pol }, func(b *bench) {
		attack := func(until func() bool) {
			b.t.Helper()
			for range 20 {
				if until() {
					return
				}
				now := time.Now()
				r := traffic.Report{Sensor: "rack1", Cause: traffic.Interval, Start: now.Add(-time.Second), Span: time.Second}
				for i := range n {
					r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32), Vector: vector.DNS, Packets: 50_000, Bytes: 25_000_000})
				}
				b.Deliver(ingest.Delivery{Report: r, Received: now})
				time.Sleep(time.Second)
				synctest.Wait()
			}
			b.t.Fatalf("it does not come to that: %s", b.kinds())
		}
		stored := func(step int) (n, commits int) {
			b.term.mu.Lock()
			defer b.term.mu.Unlock()
			for _, m := range b.term.rec {
				if m.Rung.Step == step {
					n++
				}
			}
			return n, b.term.made
		}
		escalated := func() int { return strings.Count(b.kinds(), string(audit.MitigationEscalated)) }
		attack(func() bool { k, _ := stored(0); return k == n })
		time.Sleep(2 * time.Second)
		b.term.fail(errors.New("etcd lost its leader"))
		attack(func() bool { return strings.Contains(b.kinds(), string(audit.LeaderLost)) })
		if k, _ := stored(0); k != n || escalated() > 0 {
			b.t.Errorf("%d are stored as they were, of %d, and %d steps are said to be taken", k, n, escalated())
		}
		b.term.fail(nil)
		go func() { _ = b.lead() }()
		synctest.Wait()
		commits := 0
		attack(func() bool {
			k, made := stored(1)
			if k == 0 {
				commits = made
			}
			return k > 0
		})
		if k, made := stored(1); k != n || escalated() != n || made != commits+1 {
			b.t.Errorf("%d steps are stored and %d are said, of %d, by %d commits", k, escalated(), n, made-commits)
		}
	})
}

// Starts that one report asks for are stored at once, with the refusals between them. Nothing is announced, or said to be, before it is
// stored; where the store has something against all together, each is stored alone; and what is not stored comes again in the next term.
func TestStartsAreStoredAtOnce(t *testing.T) {
	const n = 5
	runWith(t, func(o *Options) { o.Safety.Never = []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32")} }, func(b *bench) {
		attack := func(first byte) (commits, created int) {
			b.t.Helper()
			now, before, said := time.Now(), b.term.commits(), strings.Count(b.kinds(), string(audit.MitigationCreated))
			r := traffic.Report{Sensor: "rack1", Cause: traffic.Trigger, Start: now.Add(-33 * time.Millisecond), Span: 33 * time.Millisecond}
			for i := range byte(n) {
				r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, first + i}), 32), Vector: vector.DNS, Packets: 2500, Bytes: 1_250_000})
			}
			b.Deliver(ingest.Delivery{Report: r, Received: now, Triggered: now})
			synctest.Wait()
			return b.term.commits() - before, strings.Count(b.kinds(), string(audit.MitigationCreated)) - said
		}
		if commits, created := attack(0); commits != 1 || created != n-1 || len(b.announced()) != n-1 || len(b.term.records().Mitigations) != n {
			t.Errorf("%d commits, %d announcements told of and %d made, %d records, with one of %d refused", commits, created, len(b.announced()), len(b.term.records().Mitigations), n)
		}
		b.term.mu.Lock()
		b.term.many = fmt.Errorf("%w: a record", store.ErrInvalid)
		b.term.mu.Unlock()
		if commits, created := attack(10); commits != n || created != n || len(b.announced()) != 2*n-1 {
			t.Errorf("of what the store refuses together: %d commits, %d announcements told of and %d made in all", commits, created, len(b.announced()))
		}
		b.term.fail(errors.New("etcd lost its leader"))
		if commits, created := attack(20); commits != 0 || created != 0 || len(b.announced()) != 2*n-1 || !strings.Contains(b.kinds(), string(audit.LeaderLost)) {
			t.Errorf("of what was not stored: %d announcements told of and %d made in all", created, len(b.announced()))
		}
		b.pending.mu.Lock()
		if k := len(b.pending.since); k > 0 {
			t.Errorf("%d that were not stored are waited for", k)
		}
		b.pending.mu.Unlock()
		b.term.fail(nil)
		go func() { _ = b.lead() }()
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		if _, created := attack(20); created != n || len(b.announced()) != 3*n-1 {
			t.Errorf("in the next term: %d announcements told of and %d made in all", created, len(b.announced()))
		}
	})
}

// What is announced is stored before what only waits for its ladder, where it was decided before.
func TestStartsAreStoredBeforeWhatWaits(t *testing.T) {
	pol, err := policy.Parse("crowded.yaml", []byte(crowded))
	if err != nil {
		t.Fatal(err)
	}
	runWith(t, func(o *Options) { o.Policy = pol }, func(b *bench) {
		var stored []mitigation.State
		follow := b.term.follow
		b.term.mu.Lock()
		b.term.follow = func(s store.Snapshot) {
			for _, m := range s.Records.Mitigations {
				if !slices.Contains(stored, m.State) {
					stored = append(stored, m.State)
				}
			}
			follow(s)
		}
		b.term.mu.Unlock()
		now := time.Now()
		b.Deliver(ingest.Delivery{Received: now, Report: traffic.Report{Sensor: "rack1", Cause: traffic.Trigger, Start: now.Add(-33 * time.Millisecond), Span: 33 * time.Millisecond, Aggregates: []traffic.Aggregate{
			{Target: netip.MustParsePrefix("192.0.2.1/32"), Vector: vector.DNS, Packets: 2500, Bytes: 1_250_000},
			{Target: netip.MustParsePrefix("192.0.2.2/32"), Vector: vector.NTP, Packets: 2500, Bytes: 1_250_000},
		}}})
		synctest.Wait()
		if want := []mitigation.State{mitigation.Active, mitigation.Pending}; !slices.Equal(stored, want) {
			t.Errorf("stored in this order: %v, want %v", stored, want)
		}
	})
}

// A report that starts very many does not let the first wait for the last.
func TestManyStartsAreStoredInParts(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Safety.MaxRules, o.Safety.MaxNewPerMinute, o.Safety.MaxRulesPerResponse = 1000, 1000, 1000
	}, func(b *bench) {
		now := time.Now()
		r := traffic.Report{Sensor: "rack1", Cause: traffic.Trigger, Start: now.Add(-33 * time.Millisecond), Span: 33 * time.Millisecond}
		for i := range byte(100) {
			r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, i}), 32), Vector: vector.DNS, Packets: 2500, Bytes: 1_250_000})
		}
		b.Deliver(ingest.Delivery{Report: r, Received: now, Triggered: now})
		synctest.Wait()
		if commits := b.term.commits(); len(b.announced()) != 100 || commits != (100+maxSteps-1)/maxSteps {
			t.Errorf("%d are announced, by %d commits", len(b.announced()), commits)
		}
	})
}
