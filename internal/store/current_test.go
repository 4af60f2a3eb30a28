package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// current asks s, in time.
func current(t testing.TB, s *Store) (revision int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, revision, err := s.Current(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// TestCurrent: what one committed is in what the other says to be current, at once and every time.
func TestCurrent(t *testing.T) {
	c := startCluster(t)
	one, two := c.open("one"), c.open("two")
	l := lead(t, one)
	current(t, two)
	for i := range 50 {
		rev := commit(t, l, Change{Put: samples(t, i+1)})
		if got := current(t, two); got < rev {
			t.Fatalf("after commit %d: revision %d is current, committed is %d", i, got, rev)
		}
		if got := two.published.Load().Revision; got < rev {
			t.Fatalf("after commit %d: what is shown is of revision %d, committed is %d", i, got, rev)
		}
	}
	// A change of other keys moves the revision of etcd and no event of ours tells.
	if _, err := one.client.Put(t.Context(), "/others/key", "value"); err != nil {
		t.Fatal(err)
	}
	if got, shown := current(t, two), two.published.Load(); got != shown.Revision || shown.synced <= got {
		t.Errorf("revision %d is current, shown is %d, seen up to %d", got, shown.Revision, shown.synced)
	}
}

// TestCurrentOfOneThatWasCutOff: nothing is current while etcd is away, and what is current then is of after.
func TestCurrentOfOneThatWasCutOff(t *testing.T) {
	c := startCluster(t)
	one := c.open("one")
	l := lead(t, one)
	door := startProxy(t, c.addr)
	two := open(t, Options{Name: "two", Endpoints: []string{"http://" + door.addr}, Timeout: 300 * time.Millisecond})
	before := current(t, two)
	door.cut()
	rev := commit(t, l, Change{Put: samples(t, 3)})
	eventually(t, "two knows that etcd is away", func() bool { return two.Healthy() != nil })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, got, err := two.Current(ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("revision %d is current at one that is cut off, error %v", got, err)
	}
	door.mend()
	var got int64
	eventually(t, "two is current again", func() (ok bool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, rev, err := two.Current(ctx)
		got = rev
		return err == nil
	})
	if got < rev || got <= before {
		t.Errorf("revision %d is current after the cut, committed meanwhile is %d", got, rev)
	}
}

func TestCurrentOfTheEmbedded(t *testing.T) {
	s := open(t, Options{Name: "one", DataDir: t.TempDir()})
	l := lead(t, s)
	for i := range 10 {
		rev := commit(t, l, Change{Put: samples(t, i+1)})
		if _, err := s.client.Put(t.Context(), fmt.Sprintf("/others/%d", i), ""); err != nil {
			t.Fatal(err)
		}
		if got := current(t, s); got < rev {
			t.Fatalf("revision %d is current, committed is %d", got, rev)
		}
	}
}
