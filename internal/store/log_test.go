package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// lines reads the shared log, newest first.
func lines(t *testing.T, s *Store, since, until time.Time) (out []string) {
	t.Helper()
	err := s.ReadLog(t.Context(), since, until, func(line []byte) bool {
		out = append(out, string(line))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSharedLog(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const n = 1300 // more than a page, and more than a transaction
	var at []time.Time
	var values [][]byte
	for i := range n {
		at = append(at, began.Add(time.Duration(i/2)*time.Second)) // two at the same time
		values = append(values, fmt.Appendf(nil, "%d", i))
	}
	if err := s.synchronised(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := s.published.Load()
	if err := s.AppendLog(t.Context(), at, values); err != nil {
		t.Fatal(err)
	}
	if after := s.published.Load(); after != before {
		t.Error("a line of the log woke those who watch records")
	}
	got := lines(t, s, time.Time{}, time.Time{})
	seen := map[string]bool{}
	for i, line := range got {
		seen[line] = true
		if want := (n - 1 - i) / 2; atoi(t, line)/2 != want {
			t.Fatalf("line %d is of second %d, want %d", i, atoi(t, line)/2, want)
		}
	}
	if len(got) != n || len(seen) != n {
		t.Errorf("%d lines, %d different ones, want %d", len(got), len(seen), n)
	}
	if got := lines(t, s, began.Add(10*time.Second), began.Add(12*time.Second)); len(got) != 4 || atoi(t, got[0])/2 != 11 || atoi(t, got[3])/2 != 10 {
		t.Errorf("from second 10 until 12: %v", got)
	}
	calls := 0
	if err := s.ReadLog(t.Context(), time.Time{}, time.Time{}, func([]byte) bool { calls++; return calls < 3 }); err != nil || calls != 3 {
		t.Errorf("reading went on for %d lines, want 3 (%v)", calls, err)
	}

	// By age and by number.
	if err := s.pruneLog(t.Context(), began.Add(time.Hour), time.Hour-100*time.Second, n); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, s, time.Time{}, time.Time{}); len(got) != n-200 || atoi(t, got[len(got)-1])/2 != 100 {
		t.Errorf("%d lines are left, the oldest of second %s/2, want %d from 100 on", len(got), got[len(got)-1], n-200)
	}
	if err := s.pruneLog(t.Context(), began, time.Hour, 7); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, s, time.Time{}, time.Time{}); len(got) != 7 || atoi(t, got[0]) < n-2 {
		t.Errorf("%v are left, want the 7 newest", got)
	}

	if err := s.AppendLog(t.Context(), []time.Time{began}, [][]byte{make([]byte, maxBytes+1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a line that is too long: %v", err)
	}
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatalf("line %q: %v", s, err)
	}
	return n
}

// TestLeaderPrunesLog: nobody else does, so that it happens once.
func TestLeaderPrunesLog(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir(), LogMost: 5, Keep: time.Second})
	var at []time.Time
	for range 20 {
		at = append(at, time.Now())
	}
	if err := s.AppendLog(t.Context(), at, make([][]byte, len(at))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_ = s.Lead(ctx, func(ctx context.Context, _ *Term) error {
		for len(lines(t, s, time.Time{}, time.Time{})) != 5 && ctx.Err() == nil {
			pause(ctx, 10*time.Millisecond)
		}
		cancel()
		return nil
	})
	if got := lines(t, s, time.Time{}, time.Time{}); len(got) != 5 {
		t.Errorf("%d lines are left, want 5", len(got))
	}
}
