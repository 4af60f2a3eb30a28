package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// same compares records; a time is what it says, not how.
var same = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
}

// diff is empty where records are the same. cmp is slow, and only needed to show a difference.
func diff(want, got []Record) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return cmp.Diff(want, got, same)
}

func randomAddr(rng *rand.Rand) netip.Addr {
	b := []byte{10, 0, byte(rng.IntN(3)), byte(rng.IntN(20))}
	switch rng.IntN(4) {
	case 0:
		b = append([]byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, byte(rng.IntN(3)), 0, 0, 0, 0}, b...)
	case 1:
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	case 2:
		b = make([]byte, 16)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func randomPrefix(rng *rand.Rand) netip.Prefix {
	a := randomAddr(rng)
	switch rng.IntN(8) {
	case 0:
		return netip.Prefix{}
	case 1, 2:
		return netip.PrefixFrom(a, rng.IntN(a.BitLen()+1))
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// number is of any size, small ones being the most frequent.
func number(rng *rand.Rand) uint64 { return rng.Uint64() >> rng.IntN(64) }

func counts(rng *rand.Rand) (out []traffic.Count) {
	for range rng.IntN(5) {
		out = append(out, traffic.Count{Value: uint16(number(rng)), Count: uint32(number(rng)), Error: uint32(number(rng))})
	}
	return out
}

func randomRecord(rng *rand.Rand) Record {
	rec := Record{Time: noon.Add(time.Duration(rng.Int64N(int64(time.Hour)))), Sensor: fmt.Sprintf("rack-%d", rng.IntN(5))}
	if rng.IntN(4) == 0 {
		rec.Samples = []traffic.Sample{}
		for range 1 + rng.IntN(6) {
			rec.Samples = append(rec.Samples, traffic.Sample{
				Time: noon.Add(time.Duration(number(rng) >> 2)), Direction: vector.Direction(rng.IntN(2)), Vector: vector.ID(rng.IntN(vector.Count)),
				Weight: uint32(number(rng)), Source: randomAddr(rng), Destination: randomAddr(rng), Length: uint16(number(rng)),
				Protocol: uint8(rng.Uint32()), TTL: uint8(rng.Uint32()), DSCP: uint8(rng.IntN(64)), FlowLabel: uint32(rng.IntN(1 << 20)),
				Fragment: uint8(rng.IntN(16)), HasPorts: rng.IntN(2) == 0, HasICMP: rng.IntN(2) == 0,
				SourcePort: uint16(number(rng)), DestinationPort: uint16(number(rng)), TCPFlags: uint8(rng.Uint32()),
				ICMPType: uint8(rng.Uint32()), ICMPCode: uint8(rng.Uint32()),
			})
		}
		return rec
	}
	r := &rec.Report
	*r = traffic.Report{
		Sensor: rec.Sensor, Outbound: rng.IntN(2) == 0, Cause: traffic.Cause(1 + rng.IntN(3)), Start: rec.Time.Add(-time.Duration(number(rng) >> 2)), Span: time.Duration(number(rng) >> 1),
		Merged: rng.IntN(3),
	}
	if rng.IntN(10) == 0 {
		r.Start = time.Time{}
	}
	for range rng.IntN(20) {
		a := traffic.Aggregate{Target: randomPrefix(rng), Direction: vector.Direction(rng.IntN(2)), Packets: number(rng), Bytes: number(rng)}
		for range 1 + rng.IntN(3) {
			a.Vector = vector.ID(rng.IntN(vector.Count))
			r.Aggregates = append(r.Aggregates, a)
		}
	}
	for range rng.IntN(4) {
		r.Networks = append(r.Networks, traffic.NetworkTotal{
			Network: randomPrefix(rng), Direction: vector.Direction(rng.IntN(2)), Vector: vector.ID(rng.IntN(vector.Count)),
			Packets: number(rng), Bytes: number(rng), ActiveHosts: uint32(number(rng)),
		})
	}
	for range rng.IntN(4) {
		p := traffic.Profile{
			Target: randomPrefix(rng), Direction: vector.Direction(rng.IntN(2)), Vector: vector.ID(rng.IntN(vector.Count)),
			Samples: uint32(number(rng)), Packets: number(rng), Fragments: uint32(number(rng)),
			TCPFlags: counts(rng), SourcePorts: counts(rng), DestinationPorts: counts(rng), DistinctExact: rng.IntN(2) == 0,
		}
		for i := range p.Lengths {
			p.Lengths[i], p.TTLs[i] = uint32(number(rng)), uint32(number(rng))
		}
		for range rng.IntN(4) {
			p.Sources = append(p.Sources, traffic.SourceCount{Network: randomPrefix(rng), Count: uint32(number(rng)), Error: uint32(number(rng))})
		}
		if n := rng.IntN(3); n > 0 {
			p.DistinctSources = new(sketch.HyperLogLog)
			for range n * n * n * 40 {
				p.DistinctSources.Add(rng.Uint64())
			}
		}
		r.Profiles = append(r.Profiles, p)
	}
	return rec
}

func randomRecords(seed uint64, n int) (out []Record) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for range n {
		out = append(out, randomRecord(rng))
	}
	return out
}

// small is a record of few octets, for tests that change each.
func small(seed uint64) []Record {
	r := rack(rand.New(rand.NewPCG(seed, 1)), 1, int(seed), 2, 0)
	return []Record{{Time: noon, Sensor: r.Sensor, Report: r}}
}

// encodeDecode sends records through a block.
func encodeDecode(t *testing.T, in []Record) (out []Record) {
	t.Helper()
	var k block
	for _, r := range in {
		k.add(r)
	}
	b, err := k.seal()
	if err != nil {
		t.Fatal(err)
	}
	h, stored, n, err := nextBlock(b)
	if err != nil || n != len(b) || int(h.records) != len(in) {
		t.Fatalf("%d of %d octets, %d records: %v", n, len(b), h.records, err)
	}
	raw, err := inflate(h, stored)
	if err != nil {
		t.Fatal(err)
	}
	d := newDecoder(raw)
	for range h.records {
		r, err := d.record()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	if !d.done() {
		t.Fatalf("%d octets are left", len(d.b))
	}
	return out
}

func FuzzRoundTrip(f *testing.F) {
	for seed := range uint64(30) {
		f.Add(seed, uint8(seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, n uint8) {
		in := randomRecords(seed, int(n))
		if d := diff(in, encodeDecode(t, in)); d != "" {
			t.Fatal(d)
		}
	})
}

// FuzzDecode gives the decoder anything: it says what is wrong, and what it takes it would write again with the same meaning.
func FuzzDecode(f *testing.F) {
	for seed := range uint64(10) {
		var k block
		for _, r := range randomRecords(seed, 3) {
			k.add(r)
		}
		f.Add(bytes.Join(k.columns(), nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDecoder(b)
		var all []Record
		for len(d.b) > 0 {
			r, err := d.record()
			if err != nil {
				return
			}
			if n := len(r.Report.Aggregates) + len(r.Report.Networks) + len(r.Report.Profiles) + len(r.Samples); n > len(b) {
				t.Fatalf("%d elements in %d octets", n, len(b))
			}
			all = append(all, r)
		}
		for _, r := range all {
			if y := r.Time.Year(); y < 1900 || y > 2200 {
				return // the block's header counts nanoseconds
			}
		}
		if d := diff(all, encodeDecode(t, all)); d != "" {
			t.Fatal(d)
		}
	})
}

// FuzzBlocks gives the reader any segment: it ends, and says what it passes over.
func FuzzBlocks(f *testing.F) {
	dir := f.TempDir()
	w := newWriter(f, Options{Dir: dir})
	putAll(w, randomRecords(1, 3))
	_ = w.Flush()
	putAll(w, randomRecords(2, 2))
	w.Close()
	seg, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seg[segmentHead:])
	f.Add(seg[segmentHead+7:])
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, segmentName(1)), append(append([]byte(segmentMagic), version), b...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, segmentName(2)), append([]byte(segmentMagic), version), 0o600); err != nil {
			t.Fatal(err)
		}
		records, damage := readAll(t, dir)
		var lost int64
		for _, d := range damage {
			lost += d.Length
		}
		if int64(len(b)) > 0 && len(records) == 0 && lost == 0 {
			// Blocks without records are whole and say nothing.
			if _, _, _, err := nextBlock(b); err != nil {
				t.Fatalf("%d octets vanished", len(b))
			}
		}
	})
}

// quick is the real disk without waiting for it.
type quick struct{ system }

type unsynced struct{ file }

func (unsynced) Sync() error { return nil }

func (q quick) create(path string) (file, error) {
	f, err := q.system.create(path)
	return unsynced{f}, err
}

func (quick) free(string) (uint64, error) { return math.MaxInt64, nil }

func newWriter(t testing.TB, o Options) *Writer {
	t.Helper()
	if o.disk == nil {
		o.disk = quick{}
	}
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func putAll(w *Writer, all []Record) {
	for _, r := range all {
		if r.Samples != nil {
			w.Samples(r.Time, r.Sensor, r.Samples)
		} else {
			w.Report(r.Time, r.Report)
		}
	}
}

func readOn(t testing.TB, r *Reader) (out []Record, damage []*Damage) {
	t.Helper()
	for {
		rec, err := r.Next()
		var d *Damage
		switch {
		case err == nil:
			out = append(out, rec)
		case errors.As(err, &d):
			damage = append(damage, d)
		case errors.Is(err, io.EOF):
			return out, damage
		default:
			t.Fatal(err)
		}
	}
}

func readAll(t testing.TB, dir string) ([]Record, []*Damage) {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return readOn(t, r)
}

func check(t testing.TB, dir string, want []Record) {
	t.Helper()
	got, damage := readAll(t, dir)
	if len(damage) > 0 {
		t.Errorf("damage: %v", damage[0])
	}
	if d := diff(want, got); d != "" {
		t.Fatalf("%d records, want %d\n%.2000s", len(got), len(want), d)
	}
}

func TestJournalKeepsWhatItIsGiven(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "journal")
	all := randomRecords(1, 200)
	w := newWriter(t, Options{Dir: dir})
	putAll(w, all)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	check(t, dir, all)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := w.Flush(); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	// The next one goes on.
	w = newWriter(t, Options{Dir: dir})
	more := randomRecords(2, 100)
	putAll(w, more)
	w.Close()
	check(t, dir, slices.Concat(all, more))

	// Between two times.
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	from, to := noon.Add(10*time.Minute), noon.Add(20*time.Minute)
	r.Between(from, to)
	var want []Record
	for _, rec := range slices.Concat(all, more) {
		if !rec.Time.Before(from) && !rec.Time.After(to) {
			want = append(want, rec)
		}
	}
	got, _ := readOn(t, r)
	if d := diff(want, got); d != "" || len(want) == 0 {
		t.Error(d)
	}
}

// Whatever octet a crash ends the journal at, all blocks before it are there, and writing goes on.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, Options{Dir: dir})
	var blocks [][]Record
	var ends []int64
	for i := range uint64(3) {
		b := small(i)
		putAll(w, b)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(dir, segmentName(1)))
		if err != nil {
			t.Fatal(err)
		}
		blocks, ends = append(blocks, b), append(ends, st.Size())
	}
	w.Close()
	whole, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	last := small(9)
	for _, tail := range []struct {
		name string
		of   func(cut int) []byte
	}{
		{"cut", func(cut int) []byte { return whole[:cut] }},
		{"zeros", func(cut int) []byte { return append(slices.Clone(whole[:cut]), make([]byte, len(whole)-cut)...) }},
	} {
		for cut := range whole {
			crashed := t.TempDir()
			path := filepath.Join(crashed, segmentName(1))
			if err := os.WriteFile(path, tail.of(cut), 0o600); err != nil {
				t.Fatal(err)
			}
			if tail.name == "zeros" && cut < segmentHead {
				continue // no journal of ours any more
			}
			var want []Record
			good := int64(min(segmentHead, cut))
			if cut < segmentHead {
				good = 0
			}
			for i, end := range ends {
				if end <= int64(cut) {
					want, good = append(want, blocks[i]...), end
				}
			}
			check(t, crashed, want) // as it is, too
			w := newWriter(t, Options{Dir: crashed})
			if got, want := testutil.ToFloat64(w.m.torn), float64(int64(len(tail.of(cut)))-good); got != want {
				t.Fatalf("%s at %d: %v octets are told to be torn, want %v", tail.name, cut, got, want)
			}
			putAll(w, last)
			w.Close()
			got, damage := readAll(t, crashed)
			if cut < segmentHead {
				damage = nil // not even its head was written
			}
			if d := diff(slices.Concat(want, last), got); d != "" || len(damage) > 0 {
				t.Fatalf("%s at %d: %v %s", tail.name, cut, damage, d)
			}
		}
	}
}

// Whatever octet is changed, only the block it is in is lost, and that is told.
func TestDamageCostsABlock(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, Options{Dir: dir})
	var blocks [][]Record
	for i := range uint64(3) {
		blocks = append(blocks, small(i))
		putAll(w, blocks[i])
		_ = w.Flush()
	}
	w.Close()
	next := newWriter(t, Options{Dir: dir})
	after := small(7)
	putAll(next, after)
	next.Close()
	path := filepath.Join(dir, segmentName(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		b := slices.Clone(whole)
		b[at] ^= 0x10
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, damage := readAll(t, dir)
		want := slices.Concat(blocks...)
		switch {
		case at < segmentHead:
			want = nil
		default:
			off := segmentHead
			for i := range blocks {
				_, _, n, err := nextBlock(whole[off:])
				if err != nil {
					t.Fatal(err)
				}
				if at >= off && at < off+n {
					want = slices.Concat(slices.Delete(slices.Clone(blocks), i, i+1)...)
				}
				off += n
			}
		}
		if d := diff(slices.Concat(want, after), got); d != "" || len(damage) != 1 || !strings.Contains(damage[0].Error(), path) {
			t.Fatalf("octet %d: %v\n%s", at, damage, d)
		}
	}
}

func TestSizeIsBounded(t *testing.T) {
	dir := t.TempDir()
	const size = 1 << 20
	w := newWriter(t, Options{Dir: dir, Size: size})
	total := func() (sum int64, n int) {
		infos, err := system{}.list(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range infos {
			sum += i.Size()
		}
		return sum, len(infos)
	}
	var all []Record
	for i := range uint64(100) {
		b := randomRecords(i, 25)
		all = append(all, b...)
		putAll(w, b)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if sum, _ := total(); sum > size {
			t.Fatalf("%d octets after %d blocks", sum, i)
		}
	}
	sum, n := total()
	if sum < size*3/4 || n < 7 {
		t.Errorf("%d octets in %d segments", sum, n)
	}
	if got := testutil.ToFloat64(w.m.size); got != float64(sum) || testutil.ToFloat64(w.m.segments) != float64(n) || testutil.ToFloat64(w.m.deleted) == 0 {
		t.Errorf("metrics: %v octets, %v segments", got, testutil.ToFloat64(w.m.segments))
	}
	w.Close()
	got, damage := readAll(t, dir)
	if len(damage) > 0 || len(got) == 0 {
		t.Fatal(damage)
	}
	again := newWriter(t, Options{Dir: dir, Size: size})
	for _, w := range []*Writer{w, again} {
		if oldest := testutil.ToFloat64(w.m.oldest); math.Abs(oldest-float64(noon.Unix())) > 3600 {
			t.Errorf("the oldest record is said to be from %v", oldest)
		}
	}
	again.Close()
	if d := diff(all[len(all)-len(got):], got); d != "" {
		t.Error("what is left is not the newest")
	}
	// A smaller bound holds from the first block on, also for what is there.
	w = newWriter(t, Options{Dir: dir, Size: 1 << 20, Age: time.Nanosecond})
	if sum, n := total(); sum > 0 || n > 0 {
		t.Errorf("%d octets in %d segments that are too old", sum, n)
	}
	w.Close()
}

func TestAgeIsBounded(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWriter(t, Options{Dir: dir, Age: 24 * time.Hour})
		for h := range 72 {
			w.Report(time.Now(), traffic.Report{Sensor: "s", Cause: traffic.Interval, Start: time.Now(), Span: time.Duration(h)})
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		got, damage := readAll(t, dir)
		if len(damage) > 0 || len(got) < 22 || len(got) > 26 || got[len(got)-1].Report.Span != 71 {
			t.Errorf("%d records of 24 hours: %v", len(got), damage)
		}
		w.Close()
	})
}

// full is a disk with so much room.
type full struct {
	system
	room *atomic.Int64
	text *atomic.Bool // free says how much
}

type bounded struct {
	file
	room *atomic.Int64
}

func (f full) create(path string) (file, error) {
	h, err := f.system.create(path)
	return bounded{h, f.room}, err
}

func (f full) free(string) (uint64, error) {
	if f.text.Load() {
		return uint64(max(f.room.Load(), 0)), nil
	}
	return 0, errors.ErrUnsupported
}

func (b bounded) WriteAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), max(b.room.Load(), 0))
	b.room.Add(-n)
	if _, err := b.file.WriteAt(p[:n], off); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), syscall.ENOSPC
	}
	return int(n), nil
}

func (bounded) Sync() error { return nil }

func TestDiskFull(t *testing.T) {
	for _, free := range []bool{false, true} {
		t.Run(fmt.Sprint("free space known ", free), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				disk := full{room: new(atomic.Int64), text: new(atomic.Bool)}
				disk.text.Store(free)
				disk.room.Store(20_000)
				var log bytes.Buffer
				w := newWriter(t, Options{Dir: dir, disk: disk, MinFree: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
				var want []Record
				i := uint64(0)
				for ; ; i++ {
					b := randomRecords(i, 3)
					putAll(w, b)
					if err := w.Flush(); err != nil {
						if !free && !errors.Is(err, syscall.ENOSPC) {
							t.Error(err)
						}
						break
					}
					want = append(want, b...)
				}
				if testutil.ToFloat64(w.m.failing) != 1 || testutil.ToFloat64(w.m.dropped.WithLabelValues(droppedDisk)) != 3 || len(want) == 0 {
					t.Errorf("failing %v, dropped %v after %d", testutil.ToFloat64(w.m.failing), testutil.ToFloat64(w.m.dropped.WithLabelValues(droppedDisk)), len(want))
				}
				check(t, dir, want)
				// Room alone does not help until it is tried again, and until then the disk is left alone.
				disk.room.Store(1 << 30)
				errs := testutil.ToFloat64(w.m.errors)
				putAll(w, randomRecords(1000, 3))
				if err := w.Flush(); err == nil || testutil.ToFloat64(w.m.errors) != errs {
					t.Error("tried again at once")
				}
				time.Sleep(retryAfter)
				b := randomRecords(2000, 3)
				putAll(w, b)
				if err := w.Flush(); err != nil {
					t.Error(err)
				}
				want = append(want, b...)
				check(t, dir, want)
				w.Close()
				if testutil.ToFloat64(w.m.failing) != 0 || testutil.ToFloat64(w.m.dropped.WithLabelValues(droppedDisk)) != 6 {
					t.Error("it does not say that it is well")
				}
				if got := log.String(); strings.Count(got, "cannot be written") != 1 || !strings.Contains(got, "is written again") {
					t.Error(got)
				}
			})
		})
	}
}

// blocked is a disk that waits.
type blocked struct {
	quick
	wait chan struct{}
}

func (b blocked) create(path string) (file, error) {
	<-b.wait
	return b.quick.create(path)
}

func TestQueueIsBoundedAndNeverBlocks(t *testing.T) {
	dir := t.TempDir()
	for _, o := range []Options{{Queue: 10}, {QueueBytes: 10 * 256}} {
		synctest.Test(t, func(t *testing.T) {
			d := blocked{wait: make(chan struct{})}
			o.Dir, o.disk = dir, d
			w := newWriter(t, o)
			w.Report(time.Now(), traffic.Report{Sensor: "s", Cause: traffic.Interval})
			time.Sleep(2 * time.Second) // now the writer waits for the disk
			for range 100 {
				w.Report(time.Now(), traffic.Report{Sensor: "s", Cause: traffic.Interval})
			}
			if got := testutil.ToFloat64(w.m.dropped.WithLabelValues(droppedQueue)); got != 90 {
				t.Errorf("%v dropped, want 90", got)
			}
			close(d.wait)
			if err := w.Flush(); err != nil {
				t.Error(err)
			}
			if got := testutil.ToFloat64(w.m.records.WithLabelValues(recordsReport)); got != 11 {
				t.Errorf("%v written, want 11", got)
			}
			w.Close()
			w.Report(time.Now(), traffic.Report{})
			if got := testutil.ToFloat64(w.m.dropped.WithLabelValues(droppedQueue)); got != 91 || w.waiting.Load() != 0 {
				t.Errorf("%v dropped, %d octets wait", got, w.waiting.Load())
			}
		})
	}
}

// A reader follows a writer without losing or inventing anything.
func TestReaderBesideWriter(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, Options{Dir: dir, SegmentBytes: 20_000, Size: 1 << 30})
	r, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if r, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	all := randomRecords(4, 400)
	var wg sync.WaitGroup
	wg.Go(func() {
		for b := range slices.Chunk(all, 10) {
			putAll(w, b)
			if err := w.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	var got []Record
	for len(got) < len(all) && !t.Failed() {
		more, damage := readOn(t, r)
		if len(damage) > 0 {
			t.Fatal(damage[0])
		}
		got = append(got, more...)
	}
	wg.Wait()
	if d := diff(all, got); d != "" {
		t.Error(d)
	}
}

// A segment that is deleted under the reader is told.
func TestDeletedUnderTheReader(t *testing.T) {
	dir := t.TempDir()
	var want []Record
	for i := range uint64(3) {
		w := newWriter(t, Options{Dir: dir})
		b := randomRecords(i, 2)
		putAll(w, b)
		w.Close()
		if i != 1 {
			want = append(want, b...)
		}
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, segmentName(2))); err != nil {
		t.Fatal(err)
	}
	got, damage := readOn(t, r)
	if d := diff(want, got); d != "" || len(damage) != 1 {
		t.Errorf("%v %s", damage, d)
	}
	if _, err := Open(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// rack is a report of a rack in peace: hosts with a few vectors each, and the profiles of the busiest.
func rack(rng *rand.Rand, sensor, second, hosts, profiles int) traffic.Report {
	at := noon.Add(time.Duration(second)*time.Second + time.Duration(rng.IntN(1e6)))
	r := traffic.Report{Sensor: fmt.Sprintf("rack-%d", sensor), Cause: traffic.Interval, Start: at.Add(-time.Second), Span: time.Second + time.Duration(rng.IntN(100_000))}
	vectors := []vector.ID{vector.Total, vector.ACK, vector.SYN, vector.UDPOther, vector.QUIC, vector.DNS}
	for h := range hosts {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(sensor), byte(h >> 8), byte(h)}), 32)
		for _, d := range []vector.Direction{vector.Inbound, vector.Outbound} {
			for _, v := range vectors[:2+h%5] {
				n := uint64(float64(50*(1+h)) * math.Exp(rng.NormFloat64()/4))
				r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: p, Direction: d, Vector: v, Packets: n, Bytes: n * uint64(400+rng.IntN(200))})
			}
		}
	}
	for i := range profiles {
		p := traffic.Profile{Target: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(sensor), 0, byte(i)}), 32), Vector: vector.ACK, Samples: uint32(rng.IntN(20)), Packets: uint64(rng.IntN(50_000))}
		for range p.Samples {
			p.Lengths[rng.IntN(3)*3]++
			p.TTLs[1]++
		}
		for range 4 {
			p.SourcePorts = append(p.SourcePorts, traffic.Count{Value: uint16(rng.Uint32()), Count: 2})
			p.Sources = append(p.Sources, traffic.SourceCount{Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()), 0}), 24), Count: 2})
		}
		p.TCPFlags = []traffic.Count{{Value: 16, Count: p.Samples}}
		p.DestinationPorts = []traffic.Count{{Value: 443, Count: p.Samples}}
		p.DistinctSources = new(sketch.HyperLogLog)
		for range 20 {
			p.DistinctSources.Add(rng.Uint64())
		}
		r.Profiles = append(r.Profiles, p)
	}
	return r
}

func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct{ hosts, profiles int }{{0, 0}, {20, 0}, {20, 20}, {20, 64}, {200, 64}} {
		b.Run(fmt.Sprintf("hosts=%d,profiles=%d", c.hosts, c.profiles), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 1))
			reports := make([]traffic.Report, 400)
			for i := range reports {
				reports[i] = rack(rng, i%100, i/100, c.hosts, c.profiles)
			}
			var k block
			written, n, out := 0, 0, 0
			seal := func() {
				x, err := k.seal()
				if err != nil {
					b.Fatal(err)
				}
				out += len(x)
				written += int(k.records)
				k.clear()
			}
			for b.Loop() {
				r := reports[n%len(reports)]
				k.add(Record{Time: r.Start.Add(r.Span), Sensor: r.Sensor, Report: r})
				// A second of 100 sensors, or a full block.
				if n++; k.size() >= blockBytes || n%100 == 0 {
					seal()
				}
			}
			seal()
			each := float64(out) / float64(written)
			b.ReportMetric(each, "octets/report")
			b.ReportMetric(each*100*86400/(1<<30), "GiB/day-of-100-sensors")
		})
	}
}

func BenchmarkRead(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	var k block
	for i := range 100 {
		r := rack(rng, i, 0, 20, 20)
		k.add(Record{Time: r.Start, Sensor: r.Sensor, Report: r})
	}
	sealed, err := k.seal()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		h, stored, _, _ := nextBlock(sealed)
		raw, err := inflate(h, stored)
		if err != nil {
			b.Fatal(err)
		}
		d := newDecoder(raw)
		for range h.records {
			if _, err := d.record(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/report")
}
