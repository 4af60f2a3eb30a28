package speaker

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample(t testing.TB, texts ...string) state {
	s := state{term: 3, revision: 1042, button: &Button{"ann", "a <new> fabric & more", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}}
	for i, x := range texts {
		s.items = append(s.items, newItem(Desired{
			Route: parse(t, x), Created: time.Date(2026, 1, 1, 0, 0, i, 123456789, time.UTC), Deadline: time.Date(2027, 1, 1, 0, 0, i, 0, time.UTC),
			Owners: []string{"m-1", "m-2"}, Answers: []string{"responses[0]"}, Groups: []string{"dns"}, Approved: i%2 == 0, Manual: i%3 == 0,
		}))
	}
	sortItems(s.items)
	return s
}

func sameState(a, b state) string {
	show := func(s state) string {
		out, _ := encodeJournal(s)
		return string(out)
	}
	return cmp.Diff(show(a), show(b))
}

func TestJournalRoundTrip(t *testing.T) {
	dir := t.TempDir()
	j := &journal{path: filepath.Join(dir, "journal")}
	if s, existed, err := j.load(time.Now()); existed || err != nil || len(s.items) != 0 {
		t.Fatalf("first start: %+v %v %v", s, existed, err)
	}
	want := sample(t, all...)
	if err := j.save(want); err != nil {
		t.Fatal(err)
	}
	got, existed, err := j.load(time.Now())
	if err != nil || !existed {
		t.Fatal(existed, err)
	}
	if diff := sameState(want, got); diff != "" {
		t.Error(diff)
	}
	if st, _ := os.Stat(j.path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}

// Whatever is cut, flipped or added, the journal is read as it was written or not at all.
func TestJournalDamage(t *testing.T) {
	good, err := encodeJournal(sample(t, all...))
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, data []byte) {
		if _, err := decodeJournal(data); err == nil && !bytes.Equal(data, good) {
			t.Errorf("%s: read without an error", name)
		}
	}
	for i := range good {
		check(fmt.Sprintf("cut at %d", i), good[:i])
		flipped := bytes.Clone(good)
		flipped[i] ^= 0x20
		check(fmt.Sprintf("bit flipped at %d", i), flipped)
	}
	check("doubled", append(bytes.Clone(good), good...))
	check("empty", nil)
}

// A journal whose sum is right is still refused when it says what it must not.
func TestJournalContent(t *testing.T) {
	line := func(r string) string {
		return `route {"route":"` + r + `","deadline":"2027-01-01T00:00:00Z","created":"2026-01-01T00:00:00Z"}` + "\n"
	}
	for _, c := range []struct{ name, body, want string }{
		{"newer version", "trafficmonitor-speaker-journal 2\nterm 1 revision 1\n", "first line"},
		{"no term", journalHead + "\n", "no term"},
		{"bad term", journalHead + "\nterm x revision 1\n", "line 2"},
		{"unknown word", journalHead + "\nterm 1 revision 1\nroutes {}\n", "unknown word"},
		{"not a route", journalHead + "\nterm 1 revision 1\n" + line("destination 192.0.2.1/33 then discard"), "line 3"},
		{"twice", journalHead + "\nterm 1 revision 1\n" + line(discard4) + line(discard4), "stands twice"},
		{"no deadline", journalHead + "\nterm 1 revision 1\nroute {\"route\":\"" + blackhole4 + "\"}\n", "no deadline"},
		{"not JSON", journalHead + "\nterm 1 revision 1\nbutton {\n", "line 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decodeJournal(seal(c.body))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// seal appends a correct last line.
func seal(body string) []byte {
	n := strings.Count(body, "\nroute ")
	return fmt.Appendf([]byte(body), "end %d crc32c %08x\n", n, crc32.Checksum([]byte(body), castagnoli))
}

func TestCorruptJournalIsSetAside(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	o := testOptions(t, f.peer("edge1"))
	if err := os.WriteFile(o.Journal, []byte("wreck"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, o)
	if st := s.status(); len(st.Routes) != 0 {
		t.Errorf("routes from a wreck: %v", st.Routes)
	}
	aside, _ := filepath.Glob(o.Journal + ".corrupt-*")
	if len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	s.set(1, 1, desired(t, discard4)) // and it works on
	waitFor(t, "the route", func() bool { return len(f.routes()) == 1 })
}

// A crash at any step of writing leaves the old journal or the new one.
func TestJournalCrash(t *testing.T) {
	t.Parallel()
	crash := errors.New("crash")
	before, after := sample(t, discard4), sample(t, all...)
	for _, at := range []string{"create", "write", "sync", "rename", "sync directory", "never"} {
		t.Run(at, func(t *testing.T) {
			j := &journal{path: filepath.Join(t.TempDir(), "journal")}
			if err := j.save(before); err != nil {
				t.Fatal(err)
			}
			var steps []string
			j.step = func(name string) error {
				steps = append(steps, name)
				if name == at {
					return crash
				}
				return nil
			}
			err := j.save(after)
			if (at == "never") != (err == nil) || at != "never" && !errors.Is(err, crash) {
				t.Fatalf("save: %v", err)
			}
			got, _, err := (&journal{path: j.path}).load(time.Now())
			if err != nil {
				t.Fatalf("load after a crash at %q: %v", at, err)
			}
			want := before
			if at == "sync directory" || at == "never" {
				want = after
			}
			if diff := sameState(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// bareSpeaker is a speaker without sessions and socket.
func bareSpeaker(t *testing.T) (*speaker, *router) {
	t.Helper()
	o, err := testOptions(t, newFakeRouter(t).peer("edge1")).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSpeaker(o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRouter(s.o, s.o.Peers[0], s.metrics, &s.watch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.stop(); r.guard.ln.Close() })
	s.routers = []*router{r}
	return s, r
}

func itemsOf(t *testing.T, texts ...string) (out []*item) {
	for _, d := range desired(t, texts...) {
		out = append(out, newItem(d))
	}
	return out
}

// When the disk is full, nothing new is announced, what is not wanted any more goes, and the caller is told.
func TestJournalWriteFails(t *testing.T) {
	t.Parallel()
	s, r := bareSpeaker(t)
	if _, err := s.hand(1, 1, itemsOf(t, discard4, blackhole4)); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	s.journal.step = func(string) error { return full }
	if _, err := s.hand(1, 2, itemsOf(t, discard4, packets4)); !errors.Is(err, full) || !strings.Contains(err.Error(), "nothing new is announced") {
		t.Fatalf("set: %v", err)
	}
	if o := r.out.order; len(o) != 1 || o[0].text != discard4 {
		t.Errorf("announced: %v", o)
	}
	if n, err := s.withdrawAll("ann", "now"); n != 1 || !errors.Is(err, full) || len(r.out.order) != 0 {
		t.Errorf("red button: %d, %v, %d left", n, err, len(r.out.order))
	}
}

// A disk that hangs holds up new routes, but neither deadlines nor the red button.
func TestJournalWriteHangs(t *testing.T) {
	t.Parallel()
	s, r := bareSpeaker(t)
	items := itemsOf(t, discard4, blackhole4)
	items[0].Deadline = time.Now().Add(20 * time.Millisecond)
	if _, err := s.hand(1, 1, items); err != nil {
		t.Fatal(err)
	}
	entered, hang := make(chan struct{}), make(chan struct{})
	s.journal.step = func(name string) error {
		if name == "sync" {
			close(entered)
			<-hang
		}
		return nil
	}
	result := make(chan error, 1)
	go func() {
		_, err := s.hand(1, 2, itemsOf(t, discard4, blackhole4, packets4))
		result <- err
	}()
	<-entered
	s.expire(time.Now().Add(time.Second))
	if n := len(r.out.order); n != 1 {
		t.Errorf("%d routes after the deadline of one of two", n)
	}
	n, err := s.withdrawAll("ann", "now")
	if n != 1 || err == nil || !strings.Contains(err.Error(), "does not answer") || len(r.out.order) != 0 {
		t.Errorf("red button: %d, %v, %d left", n, err, len(r.out.order))
	}
	s.journal.step = nil
	close(hang)
	if err := <-result; !errors.Is(err, ErrWithdrawnAll) || len(r.out.order) != 0 {
		t.Errorf("the set that hung: %v, %d routes announced", err, len(r.out.order))
	}
	waitFor(t, "the button in the journal", func() bool {
		st, _, err := (&journal{path: s.o.Journal}).load(time.Now())
		return err == nil && st.button != nil && len(st.items) == 0
	})
}

func FuzzJournal(f *testing.F) {
	good, err := encodeJournal(sample(f, all...))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(seal(journalHead + "\nterm 1 revision 1\n"))
	f.Add(seal(journalHead + "\nterm 1 revision 1\nbutton {\"by\":\"a\"}\nroute {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, d := range [][]byte{data, seal(string(data))} { // also past the checksum
			s, err := decodeJournal(d)
			if err != nil {
				if len(s.items) != 0 {
					t.Fatal("half a journal beside an error")
				}
				continue
			}
			again, err := encodeJournal(s)
			if err != nil {
				t.Skip() // a year JSON cannot write
			}
			s2, err := decodeJournal(again)
			if err != nil {
				t.Fatalf("what was read and written cannot be read: %v\n%s", err, again)
			}
			if diff := sameState(s, s2); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}
