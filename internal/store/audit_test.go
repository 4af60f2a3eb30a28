package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
)

// Each of two controllers on one etcd tells what the other one did, also what it did while etcd was away; and what the leader
// prunes is gone for both, but for each one's own file.
func TestControllersTellEachOthersEvents(t *testing.T) {
	c := startCluster(t)
	type controller struct {
		*audit.Log
		store *Store
	}
	var both [2]controller
	for i, name := range []string{"one", "two"} {
		s := c.open(name, short)
		l, err := audit.Open(audit.Options{Dir: t.TempDir(), Name: name})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- l.Share(ctx, s) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		both[i] = controller{l, s}
		// What is recorded before the log is subscribed to is in the file only.
		eventually(t, name+" shares", func() bool {
			l.Record(audit.Event{Kind: audit.Started, Message: name})
			found := false
			err := s.ReadLog(t.Context(), time.Time{}, time.Time{}, func(line []byte) bool {
				found = found || strings.Contains(string(line), `"message":"`+name+`"`)
				return true
			})
			return err == nil && found
		})
	}
	began := time.Now()
	told := func(x controller) (out []string, incomplete string) {
		a, err := x.Find(t.Context(), audit.Query{Since: began, Kinds: []audit.Kind{audit.FreezeSet, audit.HoldSet}, Limit: 100}, x.store)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range a.Events {
			out = append(out, fmt.Sprintf("%s by %s", e.Message, e.Controller))
		}
		slices.Sort(out)
		return out, a.Incomplete
	}
	tell := func(when string, want ...string) {
		t.Helper()
		slices.Sort(want)
		for i, x := range both {
			eventually(t, fmt.Sprintf("%s, controller %d tells %q", when, i+1, want), func() bool {
				got, incomplete := told(x)
				return slices.Equal(got, want) && incomplete == ""
			})
		}
	}
	both[0].Record(audit.Event{Kind: audit.FreezeSet, Message: "first"})
	both[1].Record(audit.Event{Kind: audit.HoldSet, Message: "second"})
	tell("in peace", "first by one", "second by two")

	c.stop()
	both[0].Record(audit.Event{Kind: audit.HoldSet, Message: "third"})
	if got, incomplete := told(both[0]); !slices.Contains(got, "third by one") || !strings.Contains(incomplete, "cannot be read") {
		t.Errorf("without etcd: %q, %q", got, incomplete)
	}
	c.start()
	tell("after the outage", "first by one", "second by two", "third by one")

	if err := both[0].store.pruneLog(t.Context(), time.Now(), time.Hour, 1); err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]string{{"first by one", "third by one"}, {"second by two", "third by one"}} {
		if got, _ := told(both[i]); !slices.Equal(got, want) {
			t.Errorf("after pruning, controller %d tells %q, want %q", i+1, got, want)
		}
	}
}
