package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func open(t testing.TB, o Options) *Log {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func event(n int) Event {
	return Event{
		Time: epoch.Add(time.Duration(n) * time.Second), Kind: MitigationCreated, Message: fmt.Sprintf("event %d", n),
		Attributes: map[string]string{"n": strconv.Itoa(n)},
	}
}

// read returns the events of a file; every line must be one.
func read(t testing.TB, path string) []Event {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []Event
	for line := range bytes.Lines(b) {
		var e Event
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			t.Fatalf("%s: line %q: %v", path, line, err)
		}
		out = append(out, e)
	}
	return out
}

func flush(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestRecord(t *testing.T) {
	for _, sync := range []Sync{SyncInterval, SyncAlways, SyncNever} {
		t.Run(string(sync), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			reg := prometheus.NewPedanticRegistry()
			l := open(t, Options{Dir: dir, Sync: sync, Registerer: reg})
			var want []Event
			for n := range 10 {
				want = append(want, event(n))
				l.Record(event(n))
			}
			flush(t, l)
			if d := cmp.Diff(want, read(t, filepath.Join(dir, FileName))); d != "" {
				t.Errorf("file (-want +got):\n%s", d)
			}
			if d := cmp.Diff(want, l.Tail(0)); d != "" {
				t.Errorf("tail (-want +got):\n%s", d)
			}
			if d := cmp.Diff(want[7:], l.Tail(3)); d != "" {
				t.Errorf("tail of 3 (-want +got):\n%s", d)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if err := l.Flush(); err == nil {
				t.Error("a closed record flushes")
			}
			l.Record(event(99)) // must not panic

			// A restart goes on in the same file and remembers its end.
			l = open(t, Options{Dir: dir, Tail: 4})
			l.Record(event(10))
			flush(t, l)
			want = append(want, event(10))
			if d := cmp.Diff(want, read(t, filepath.Join(dir, FileName))); d != "" {
				t.Errorf("file after restart (-want +got):\n%s", d)
			}
			if d := cmp.Diff(want[7:], l.Tail(0)); d != "" {
				t.Errorf("tail after restart (-want +got):\n%s", d)
			}
			if st, err := os.Stat(filepath.Join(dir, FileName)); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", st.Mode(), err)
			}
			problems, err := testutil.GatherAndLint(reg)
			if err != nil || len(problems) > 0 {
				t.Errorf("metrics: %v %v", problems, err)
			}
		})
	}
}

func TestZeroTimeIsNow(t *testing.T) {
	l := open(t, Options{})
	before := time.Now()
	l.Record(Event{Kind: Started, Message: "x"})
	if got := l.Tail(1)[0].Time; got.Before(before.Add(-time.Millisecond)) || got.After(time.Now()) || got.Location() != time.UTC {
		t.Errorf("time %v", got)
	}
}

func TestRotation(t *testing.T) {
	const maxBytes, maxFiles, events = 4096, 3, 500
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, MaxBytes: maxBytes, MaxFiles: maxFiles})
	for n := range events {
		l.Record(event(n))
		if n%7 == 0 {
			flush(t, l)
		}
	}
	flush(t, l)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != maxFiles+1 {
		t.Fatalf("files %v, %v", files, err)
	}
	var all []Event
	for _, name := range []string{FileName + ".3", FileName + ".2", FileName + ".1", FileName} {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err != nil || st.Size() > maxBytes {
			t.Errorf("%s: %d octets, %v", name, st.Size(), err)
		}
		all = append(all, read(t, path)...)
	}
	// The newest events are all there, in order, without a gap at the seams.
	for i, e := range all {
		if d := cmp.Diff(event(events-len(all)+i), e); d != "" {
			t.Fatalf("event %d of %d (-want +got):\n%s", i, len(all), d)
		}
	}
	if len(all) < 3*maxBytes/200 {
		t.Errorf("only %d events are left", len(all))
	}
}

// stuck returns a record whose disk takes nothing until run is called.
func stuck(t *testing.T, o Options) (l *Log, run func()) {
	t.Helper()
	o.Dir = t.TempDir()
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l = &Log{queue: make(chan entry, o.Queue), done: make(chan struct{}), subs: map[*subscriber]struct{}{}, tail: newRing(o.Tail)}
	if l.m, err = newMetrics(nil, l); err != nil {
		t.Fatal(err)
	}
	f, err := openFile(filepath.Join(o.Dir, FileName), o, l.m)
	if err != nil {
		t.Fatal(err)
	}
	return l, func() { go l.write(f, o); t.Cleanup(func() { l.Close() }); flush(t, l) }
}

func TestNeverWaitsForTheDisk(t *testing.T) {
	l, run := stuck(t, Options{Queue: 10})
	for n := range 25 { // would hang here
		l.Record(event(n))
	}
	if got := testutil.ToFloat64(l.m.lost.WithLabelValues(lostFile)); got != 15 {
		t.Errorf("%v events counted as lost, want 15", got)
	}
	if got := len(l.Tail(0)); got != 25 {
		t.Errorf("%d events in memory, want all 25", got)
	}
	run()
	l.Record(event(25))
	flush(t, l)
	var want []Event
	for n := range 10 {
		want = append(want, event(n))
	}
	want = append(want, Event{Time: event(25).Time, Kind: EventsLost, Message: "15 events are missing here: the disk was too slow for them, or failed"}, event(25))
	dir, _ := filepath.Glob(filepath.Join(filepath.Dir(t.TempDir()), "*", FileName))
	if len(dir) != 1 {
		t.Fatalf("files %v", dir)
	}
	if d := cmp.Diff(want, read(t, dir[0])); d != "" {
		t.Errorf("file (-want +got):\n%s", d)
	}
}

func TestSubscribers(t *testing.T) {
	l := open(t, Options{})
	slow, cancelSlow := l.Subscribe(2)
	fast, cancelFast := l.Subscribe(100)
	defer cancelFast()
	for n := range 5 {
		l.Record(event(n))
	}
	for n := range 5 {
		if d := <-fast; d.Lost != 0 || d.Message != event(n).Message {
			t.Errorf("fast got %+v", d)
		}
	}
	for n := range 2 {
		if d := <-slow; d.Lost != 0 || d.Message != event(n).Message {
			t.Errorf("slow got %+v", d)
		}
	}
	l.Record(event(5))
	if d := <-slow; d.Lost != 3 || d.Message != event(5).Message {
		t.Errorf("slow got %+v, want event 5 with 3 lost", d)
	}
	l.Record(event(6))
	if d := <-slow; d.Lost != 0 {
		t.Errorf("losses are told twice: %+v", d)
	}
	if got := testutil.ToFloat64(l.m.lost.WithLabelValues(lostSubscriber)); got != 3 {
		t.Errorf("%v counted as lost, want 3", got)
	}
	cancelSlow()
	cancelSlow()
	if _, ok := <-slow; ok {
		t.Error("a cancelled subscription goes on")
	}
	l.Record(event(7))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-fast
	}
	if _, ok := <-fast; ok {
		t.Error("a subscription outlives the record")
	}
	if late, _ := l.Subscribe(1); true {
		if _, ok := <-late; ok {
			t.Error("a closed record delivers")
		}
	}
}

func TestTornLine(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, []byte(`{"time":"2026-11-22T12:00:00Z","kind":"started","message":"whole"}`+"\n"+`{"time":"2026-11-`), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, Options{Dir: dir})
	if tail := l.Tail(0); len(tail) != 1 || tail[0].Message != "whole" {
		t.Errorf("tail %+v", tail)
	}
	l.Record(event(1))
	flush(t, l)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) != 3 || !json.Valid([]byte(lines[2])) {
		t.Errorf("lines %q", lines)
	}
}

func TestDiskFailsAndRecovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	var said syncBuffer
	l := open(t, Options{Dir: dir, SyncEvery: time.Hour, Log: slog.New(slog.NewTextHandler(&said, nil))})
	for n := range 3 {
		l.Record(event(n))
		// What was tried before Flush came is lost already, and no error of Flush.
		if err := l.Flush(); err == nil && testutil.ToFloat64(l.m.lost.WithLabelValues(lostFile)) <= float64(n) {
			t.Fatal("a full disk took it")
		}
	}
	if got := testutil.ToFloat64(l.m.lost.WithLabelValues(lostFile)); got < 3 {
		t.Errorf("%v counted as lost, want 3 or more", got)
	}
	if n := strings.Count(said.String(), "cannot be written"); n != 1 {
		t.Errorf("said %d times:\n%s", n, said.String())
	}
	_ = l.Flush() // of nothing: that proves nothing
	if strings.Contains(said.String(), "written again") {
		t.Errorf("said that it works again while it does not:\n%s", said.String())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l.Record(event(3))
	flush(t, l)
	got := read(t, path)
	if len(got) != 2 || got[0].Kind != EventsLost || got[1].Message != event(3).Message {
		t.Errorf("file %+v", got)
	}
	if !strings.Contains(said.String(), "written again") {
		t.Errorf("did not say that it works again:\n%s", said.String())
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestFileMovedAway(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	l := open(t, Options{Dir: dir, SyncEvery: time.Millisecond})
	l.Record(event(1))
	flush(t, l)
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; { // until the writer looks
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no new file")
		}
		flush(t, l)
	}
	l.Record(event(2))
	flush(t, l)
	if got := read(t, path); len(got) != 1 || got[0].Message != event(2).Message {
		t.Errorf("new file %+v", got)
	}
}

func TestBounds(t *testing.T) {
	many := map[string]string{}
	for n := range 1000 {
		many[fmt.Sprintf("k%04d", n)] = strings.Repeat("é", 5000)
	}
	many[strings.Repeat("k", 9999)] = "long key"
	l := open(t, Options{})
	l.Record(Event{Kind: "made_up", Message: "a\nb\x00\xff" + strings.Repeat("x", 1<<20), Attributes: many})
	many["k0000"] = "changed by the caller"
	flush(t, l)
	e := l.Tail(1)[0]
	if len(e.Message) > maxText+8 || !strings.HasPrefix(e.Message, "a\nb\x00�xx") {
		t.Errorf("message of %d octets: %.20q", len(e.Message), e.Message)
	}
	if len(e.Attributes) != maxAttributes || e.Attributes["k0000"] == many["k0000"] || len(e.Attributes["k0000"]) > maxText+8 {
		t.Errorf("%d attributes, the first of %d octets", len(e.Attributes), len(e.Attributes["k0000"]))
	}
	if got := testutil.ToFloat64(l.m.events.WithLabelValues("unknown")); got != 1 {
		t.Errorf("unknown kinds counted: %v", got)
	}
}

func TestOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"no directory": {}, "directory is a file": {Dir: file}, "sync": {Dir: t.TempDir(), Sync: "sometimes"}, "negative": {Dir: t.TempDir(), Tail: -1},
	} {
		if l, err := Open(o); err == nil {
			l.Close()
			t.Errorf("%s: accepted", name)
		} else if !strings.HasPrefix(err.Error(), "audit: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConcurrent(t *testing.T) {
	l := open(t, Options{MaxBytes: 10_000})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range 300 {
				l.Record(event(n))
			}
		})
		wg.Go(func() {
			ch, cancel := l.Subscribe(4)
			for range 20 {
				select {
				case <-ch:
				default:
					l.Tail(5)
				}
			}
			cancel()
			_ = l.Flush()
		})
	}
	wg.Wait()
	wg.Go(func() { l.Record(event(1)) })
	wg.Go(func() { _ = l.Flush() })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

// TestKinds compares the list of kinds with the constants in the source: a kind that is missing would be counted as
// unknown.
func TestKinds(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []Kind
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Kind" && len(v.Values) == 1 {
			s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, Kind(s))
		}
		return true
	})
	if d := cmp.Diff(want, Kinds()); d != "" || len(want) == 0 {
		t.Errorf("kinds (-constants +list):\n%s", d)
	}
	seen := map[Kind]bool{}
	for _, k := range Kinds() {
		if seen[k] || !k.Known() {
			t.Errorf("kind %s stands twice or is not known", k)
		}
		seen[k] = true
	}
}

func BenchmarkRecord(b *testing.B) {
	l := open(b, Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	e := event(1)
	b.ReportAllocs()
	for b.Loop() {
		l.Record(e)
	}
}
