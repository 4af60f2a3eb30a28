package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// record is a shared record in memory.
type record struct {
	mu    sync.Mutex
	at    []time.Time
	lines [][]byte
	err   error
}

func (r *record) AppendLog(_ context.Context, at []time.Time, lines [][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.at, r.lines = append(r.at, at...), append(r.lines, lines...)
	}
	return r.err
}

func (r *record) ReadLog(_ context.Context, since, until time.Time, each func([]byte) bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	for i := len(r.lines) - 1; i >= 0; i-- {
		if (since.IsZero() || !r.at[i].Before(since)) && (until.IsZero() || r.at[i].Before(until)) && !each(r.lines[i]) {
			break
		}
	}
	return nil
}

func (r *record) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *record) has(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.lines) >= n
}

var day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// story records two attacks and what surrounds them.
func story(l *Log) {
	for i, e := range []Event{
		{Kind: PolicyLoaded, Message: "policy"},
		{Kind: IncidentOnset, Message: "first", Attributes: map[string]string{"incident": "i-1", "target": "192.0.2.1/32"}},
		{Kind: MitigationCreated, Message: "first", Attributes: map[string]string{"incident": "i-1", "mitigation": "m-1", "target": "192.0.2.1/32", "route": "destination 192.0.2.1/32 then discard"}},
		{Kind: RouteSent, Message: "first", Attributes: map[string]string{"route": "destination 192.0.2.1/32 then discard", "peer": "edge-1"}},
		{Kind: IncidentOnset, Message: "second", Attributes: map[string]string{"incident": "i-11", "target": "192.0.2.0/24"}},
		{Kind: ManualWithdraw, Message: "first", Attributes: map[string]string{"mitigation": "m-1", "target": "192.0.2.1/32", "requester": "ada (unix uid 0)", "reason": `"i-1" was a "test"`}},
		{Kind: IncidentOnset, Message: "third", Attributes: map[string]string{"incident": "i-2", "target": "2001:db8::1/128"}},
		{Kind: SensorLost, Message: "rack"},
	} {
		e.Time = day.Add(time.Duration(i) * time.Minute)
		l.Record(e)
	}
}

func kindsOf(a Answer) string {
	var out []string
	for _, e := range a.Events {
		out = append(out, string(e.Kind)+"/"+e.Message)
	}
	return strings.Join(out, " ")
}

func TestFind(t *testing.T) {
	l, err := Open(Options{Dir: t.TempDir(), Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	story(l)
	for _, c := range []struct {
		name string
		q    Query
		want string
	}{
		{"everything", Query{Limit: 2}, "sensor_lost/rack incident_onset/third"},
		{"an incident, and no other that begins like it", Query{About: []string{"i-1"}, Limit: 9}, "mitigation_created/first incident_onset/first"},
		{"a mitigation", Query{About: []string{"m-1"}, Limit: 9}, "manual_withdraw/first mitigation_created/first"},
		{"a router", Query{About: []string{"edge-1"}, Limit: 9}, "route_sent/first"},
		{"a host, and networks it is in", Query{About: []string{"192.0.2.1"}, Limit: 9}, "manual_withdraw/first incident_onset/second mitigation_created/first incident_onset/first"},
		{"a network, and hosts in it", Query{About: []string{"2001:db8::/32"}, Limit: 9}, "incident_onset/third"},
		{"either", Query{About: []string{"i-2", "edge-1"}, Limit: 9}, "incident_onset/third route_sent/first"},
		{"a span", Query{Since: day.Add(time.Minute), Until: day.Add(3 * time.Minute), Limit: 9}, "mitigation_created/first incident_onset/first"},
		{"kinds", Query{Kinds: []Kind{PolicyLoaded, SensorLost}, Limit: 9}, "sensor_lost/rack policy_loaded/policy"},
		{"who", Query{Requester: "ada", Limit: 9}, "manual_withdraw/first"},
		{"nothing", Query{About: []string{"i-3"}, Limit: 9}, ""},
	} {
		a, err := l.Find(t.Context(), c.q, nil)
		if got := kindsOf(a); err != nil || got != c.want || a.Incomplete != "" {
			t.Errorf("%s: %q, want %q (%q, %v)", c.name, got, c.want, a.Incomplete, err)
		}
	}
	if _, err := l.Find(t.Context(), Query{}, nil); err == nil {
		t.Error("no limit was taken")
	}
	a, _ := l.Find(t.Context(), Query{About: []string{"i-1"}, Limit: 9}, nil)
	if got := Related(a.Events, []string{"i-1"}); !slices.Equal(got, []string{"m-1", "destination 192.0.2.1/32 then discard"}) {
		t.Errorf("related: %q", got)
	}
}

// TestFindOverRotations compares with all that was recorded, in lines that lie across chunks and files.
func TestFindOverRotations(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(Options{Dir: dir, MaxBytes: 3 << 20, Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := rand.New(rand.NewPCG(5, 6))
	var all []string
	for i := range 3000 {
		message := fmt.Sprint(i, strings.Repeat("x", r.IntN(maxText-8)))
		all = append(all, message)
		l.Record(Event{Time: day.Add(time.Duration(i) * time.Second), Kind: Started, Message: message})
		if i%500 == 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Reverse(all)
	a, err := l.Find(t.Context(), Query{Limit: 5000}, nil)
	if err != nil || len(a.Events) != len(all) || a.Incomplete != "" {
		t.Fatalf("%d events, want %d (%q, %v)", len(a.Events), len(all), a.Incomplete, err)
	}
	for i, e := range a.Events {
		if e.Message != all[i] || e.Controller != "one" {
			t.Fatalf("event %d is %.20q of %q, want %.20q", i, e.Message, e.Controller, all[i])
		}
	}
	// Since ends the reading, and a limit of octets is said.
	lines := 0
	m := Query{Since: day.Add(2990 * time.Second), Limit: 1}.matcher()
	if whole, err := readBack(l.path, 1<<40, func(line []byte) bool { lines++; return !m.before(line) }); !whole || err != nil || lines > 100 {
		t.Errorf("%d lines were read for the last 10 (%v, %v)", lines, whole, err)
	}
	if whole, err := readBack(l.path, 1<<20, func([]byte) bool { return true }); whole || err != nil {
		t.Errorf("a part was taken for the whole (%v)", err)
	}
}

func TestShare(t *testing.T) {
	l, err := Open(Options{Dir: t.TempDir(), Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	shared := &record{err: errors.New("no quorum")}
	ctx, cancel := context.WithCancel(t.Context())
	events, unsubscribe := l.Subscribe(sharedQueue)
	defer unsubscribe()
	done := make(chan error)
	go func() { done <- l.share(ctx, shared, events) }()
	story(l)
	if a, err := l.Find(t.Context(), Query{Limit: 99}, shared); err != nil || len(a.Events) != 8 || !strings.Contains(a.Incomplete, "no quorum") {
		t.Errorf("without the shared record: %d events, %q, %v", len(a.Events), a.Incomplete, err)
	}
	shared.fail(nil)
	for !shared.has(7) { // all but the sensor
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("nothing was shared")
		}
	}
	// Another controller's events are found, ours not twice.
	if err := shared.AppendLog(t.Context(), []time.Time{day.Add(time.Hour)}, [][]byte{[]byte(`{"time":"2026-03-01T01:00:00Z","kind":"started","message":"two","controller":"two"}`)}); err != nil {
		t.Fatal(err)
	}
	a, err := l.Find(t.Context(), Query{Limit: 99}, shared)
	if err != nil || len(a.Events) != 9 || a.Events[0].Controller != "two" || a.Incomplete != "" {
		t.Errorf("%s (%q, %v)", kindsOf(a), a.Incomplete, err)
	}
	// What is recorded just before the end is not lost.
	l.Record(Event{Kind: Stopped, Message: "one"})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !shared.has(9) {
		t.Error("the last event was not shared")
	}
}
