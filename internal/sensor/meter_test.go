package sensor

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// fakeKernel counts what packets says and remembers what it was told.
type fakeKernel struct {
	counts  []bpf.Row
	told    []bpf.Row
	holders map[uint32]netip.Addr
	parents map[uint32]uint32
	table   bpf.Table
	levels  [bpf.Columns]bpf.Level
	hot     map[uint32][vector.Directions]uint64
	free    []uint32
	freed   []string
	watched map[uint32]bool
	sketch  map[[2]uint32]int // by slot and direction
	cleared []int
	fail    error
}

var testSizes = bpf.Sizes{CPUs: 1, Hosts: 4, Prefixes: 3, Networks4: 4, Blocks4: 2}

func newFake() *fakeKernel {
	return &fakeKernel{
		counts: make([]bpf.Row, testSizes.Slots()), told: make([]bpf.Row, testSizes.Slots()),
		holders: map[uint32]netip.Addr{}, parents: map[uint32]uint32{}, hot: map[uint32][vector.Directions]uint64{}, watched: map[uint32]bool{}, sketch: map[[2]uint32]int{},
		free: []uint32{0, 1, 2, 3},
	}
}

// packets lets n packets of 100 bytes arrive.
func (k *fakeKernel) packets(target string, v vector.ID, n uint64) {
	k.count(target, bpf.ColumnOf(vector.Inbound, v), n)
}

func (k *fakeKernel) count(target string, c bpf.Column, n uint64) {
	addr := netip.MustParseAddr(target)
	slot, known := uint32(0), false
	for s, a := range k.holders {
		if a == addr {
			slot, known = s, true
		}
	}
	if !known {
		prefix, ok := k.table.Lookup(addr)
		switch {
		case !ok:
			return
		case len(k.free) == 0:
			slot = prefix
		default:
			slot, k.free = k.free[0], k.free[1:]
			k.holders[slot] = addr
		}
	}
	k.counts[slot][c] += bpf.CountOf(n, 100*n)
}

func (k *fakeKernel) Scan(each func(uint32, bpf.Column, bpf.Count)) error {
	var all []uint32
	for slot := range k.counts {
		all = append(all, uint32(slot))
	}
	return k.ScanSlots(all, each)
}

func (k *fakeKernel) ScanSlots(slots []uint32, each func(uint32, bpf.Column, bpf.Count)) error {
	if k.fail != nil {
		return k.fail
	}
	for _, slot := range slots {
		for c, n := range k.counts[slot] {
			if delta := n - k.told[slot][c]; delta != 0 {
				k.told[slot][c] = n
				each(slot, bpf.Column(c), delta)
			}
		}
	}
	return nil
}

func (k *fakeKernel) Present(slot, _ uint32) (bpf.Row, error) {
	row := k.counts[slot]
	for c, n := range k.counts[slot] {
		row[bpf.ColumnOf(bpf.Column(c).Direction(), vector.Total)] += n
	}
	return row, k.fail
}

func (k *fakeKernel) Holder(slot uint32) (h bpf.Holder, err error) {
	if addr := k.holders[slot]; addr.IsValid() {
		h.Network = netip.PrefixFrom(addr, addr.BitLen())
		h.Parent, _ = k.table.Lookup(addr)
	}
	return h, k.fail
}

func (k *fakeKernel) SetParent(slot, parent uint32) error {
	k.parents[slot] = parent
	return k.fail
}

func (k *fakeKernel) Stats() (bpf.Stats, error) {
	return bpf.Stats{Packets: [2]uint64{18, 2}, UnprotectedPackets: [2]uint64{7, 1}}, k.fail
}

func (k *fakeKernel) SetFlag(slot uint32, f bpf.Flag, on bool) error {
	if f == bpf.Watched {
		k.watched[slot] = on
	}
	return k.fail
}

func (k *fakeKernel) SetSketch(slot uint32, d vector.Direction, sketch int) error {
	k.sketch[[2]uint32{slot, uint32(d)}] = sketch
	return k.fail
}

func (k *fakeKernel) ReadSketch(n int) (bpf.Sketch, error) {
	return bpf.Sketch{byte(n), 7}, k.fail
}

func (k *fakeKernel) ClearSketch(n int) error {
	k.cleared = append(k.cleared, n)
	return k.fail
}

func (k *fakeKernel) SetHot(slot uint32, vectors [vector.Directions]uint64) error {
	k.hot[slot] = vectors
	return k.fail
}

func (k *fakeKernel) Unlink(slot uint32, h bpf.Holder, protected bool) error {
	delete(k.holders, slot)
	k.freed = append(k.freed, fmt.Sprintf("%s protected=%v", h.Network.Addr(), protected))
	return k.fail
}
func (k *fakeKernel) PushFree(slot uint32) error   { k.free = append(k.free, slot); return k.fail }
func (k *fakeKernel) ClearExhausted() error        { return k.fail }
func (k *fakeKernel) SetTargets(t bpf.Table) error { k.table = t; return k.fail }
func (k *fakeKernel) SetLevels(levels [bpf.Columns]bpf.Level) error {
	k.levels = levels
	return k.fail
}
func (k *fakeKernel) SetPorts(*[65536]uint8) error    { return k.fail }
func (k *fakeKernel) SetSampling(uint32) error        { return k.fail }
func (k *fakeKernel) SetWatchedSampling(uint32) error { return k.fail }

var begin = time.Unix(1_700_000_000, 0)

func at(d time.Duration) time.Time { return begin.Add(d) }

func follow(t *testing.T, m *meter, revision uint64, prefixes ...string) {
	t.Helper()
	p := told(1, revision)
	p.ProtectedPrefixes = prefixes
	d, err := parseDirective(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.direct(d, begin); err != nil {
		t.Fatal(err)
	}
}

func watching(t *testing.T, prefixes ...string) (*meter, *fakeKernel) {
	t.Helper()
	k := newFake()
	m := newMeter(k, testSizes, 32*time.Millisecond, 4*time.Millisecond, time.Minute, begin)
	follow(t, m, 1, prefixes...)
	return m, k
}

// says writes a report's aggregates as text.
func says(r *pb.Report) string {
	var out []string
	for _, a := range r.GetAggregates() {
		addr, _ := netip.AddrFromSlice(a.GetTarget())
		out = append(out, fmt.Sprintf("%s/%d %s %d", addr, a.GetPrefixLength(), vector.ID(a.GetVector()), a.GetPackets()))
		if a.GetBytes() != 100*a.GetPackets() {
			out = append(out, "with wrong bytes")
		}
	}
	return strings.Join(out, ", ")
}

func scanned(t *testing.T, m *meter, now time.Time) string {
	t.Helper()
	if err := m.scan(now); err != nil {
		t.Fatal(err)
	}
	r := m.interval(now)
	return says(r)
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func TestIntervalHoldsWhatChanged(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24", "2001:db8::/32")
	k.packets("2001:db8::9", vector.SYN, 5)
	k.packets("192.0.2.9", vector.DNS, 3)
	k.packets("198.51.100.9", vector.DNS, 3)
	if err := m.scan(at(time.Second / 2)); err != nil { // a scan between two reports
		t.Fatal(err)
	}
	k.packets("192.0.2.9", vector.SYN, 2)
	expect(t, "first", scanned(t, m, at(time.Second)), "192.0.2.9/32 total 5, 192.0.2.9/32 syn 2, 192.0.2.9/32 dns-amplification 3, 2001:db8::9/128 total 5, 2001:db8::9/128 syn 5")
	expect(t, "silence", scanned(t, m, at(2*time.Second)), "")
	k.packets("192.0.2.9", vector.SYN, 1)
	expect(t, "third", scanned(t, m, at(3*time.Second)), "192.0.2.9/32 total 1, 192.0.2.9/32 syn 1")
	c, _, err := m.counters()
	if err != nil || c.GetPackets() != 20 || c.GetOutboundPackets() != 2 || c.GetUnprotectedPackets() != 7 || c.GetForeignSourcePackets() != 1 || c.GetSlotsUsed() != 2 || c.GetSlotsTotal() != 4 {
		t.Errorf("counters: %v (%v)", c, err)
	}
}

func TestDirectionsAreToldApart(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24")
	k.packets("192.0.2.9", vector.DNS, 5)
	k.count("192.0.2.9", bpf.ColumnOf(vector.Outbound, vector.DNS), 2)
	k.count("192.0.2.9", bpf.ColumnOf(vector.Outbound, vector.SYN), 1)
	if err := m.scan(at(0)); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range m.interval(at(time.Second)).GetAggregates() {
		out = append(out, fmt.Sprintf("%s %s %d", a.GetDirection(), vector.ID(a.GetVector()), a.GetPackets()))
	}
	expect(t, "aggregates", strings.Join(out, ", "), "DIRECTION_INBOUND total 5, DIRECTION_INBOUND dns-amplification 5, "+
		"DIRECTION_OUTBOUND total 3, DIRECTION_OUTBOUND syn 1, DIRECTION_OUTBOUND dns-amplification 2")
}

func TestIdleSlotsAreGivenBack(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24")
	k.packets("192.0.2.1", vector.DNS, 1)
	scanned(t, m, at(0))
	scanned(t, m, at(59*time.Second))
	if len(k.freed) != 0 {
		t.Errorf("freed too early: %v", k.freed)
	}
	scanned(t, m, at(61*time.Second))
	if len(k.free) != 3 {
		t.Error("given back before programs that run now are done")
	}
	k.counts[0][vector.DNS] += bpf.CountOf(1, 100) // one of them counted a last packet
	expect(t, "last packet", scanned(t, m, at(62*time.Second)), "192.0.2.1/32 total 1, 192.0.2.1/32 dns-amplification 1")
	scanned(t, m, at(62500*time.Millisecond))
	if len(k.free) != 4 || m.hosts.used != 0 || !slices.Equal(k.freed, []string{"192.0.2.1 protected=true"}) {
		t.Errorf("free %v, used %d, freed %v", k.free, m.hosts.used, k.freed)
	}
	// All four hosts are new ones; until half are free the idle leave sooner.
	for i := range 4 {
		k.packets(fmt.Sprintf("192.0.2.%d", 10+i), vector.DNS, 1)
	}
	k.packets("192.0.2.99", vector.DNS, 9)
	expect(t, "exhausted", scanned(t, m, at(63*time.Second)), "192.0.2.0/24 total 9, 192.0.2.0/24 dns-amplification 9, "+
		"192.0.2.10/32 total 1, 192.0.2.10/32 dns-amplification 1, 192.0.2.11/32 total 1, 192.0.2.11/32 dns-amplification 1, "+
		"192.0.2.12/32 total 1, 192.0.2.12/32 dns-amplification 1, 192.0.2.13/32 total 1, 192.0.2.13/32 dns-amplification 1")
	scanned(t, m, at(69*time.Second))
	scanned(t, m, at(70*time.Second))
	if len(k.free) != 2 {
		t.Errorf("free %v", k.free)
	}
}

func TestDirectiveMovesHosts(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24", "2001:db8::/32")
	k.packets("192.0.2.1", vector.DNS, 1)
	k.packets("192.0.2.200", vector.DNS, 1)
	scanned(t, m, at(0))
	old := maps.Clone(m.table)
	follow(t, m, 2, "192.0.2.0/25", "2001:db8::/32")
	if m.table[netip.MustParsePrefix("2001:db8::/32")] != old[netip.MustParsePrefix("2001:db8::/32")] {
		t.Error("a prefix that stays got another slot")
	}
	if !slices.Equal(k.freed, []string{"192.0.2.200 protected=false"}) {
		t.Errorf("freed %v", k.freed)
	}
	k.packets("192.0.2.1", vector.DNS, 1)
	expect(t, "after", scanned(t, m, at(time.Second)), "192.0.2.1/32 total 1, 192.0.2.1/32 dns-amplification 1")

	p := told(1, 3)
	p.ProtectedPrefixes = []string{"10.0.0.0/16"}
	d, err := parseDirective(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.direct(d, begin); err == nil || m.now.version != (version{1, 2}) || len(m.table) != 2 {
		t.Errorf("a directive that does not fit: %v, now %s", err, m.now.version)
	}
}

func event(slot uint32, addr string, v vector.ID, window uint32) trigger {
	return trigger{slot: slot, window: window, column: bpf.Column(v), addr: netip.MustParseAddr(addr), packets: 640, bytes: 64_000, raised: at(20 * time.Millisecond), start: at(0)}
}

func TestTriggerMakesHot(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24")
	if k.levels[vector.DNS].Packets != 640 || k.levels[vector.SYN].Packets != 0 {
		t.Errorf("levels: %+v", k.levels)
	}
	k.packets("192.0.2.1", vector.DNS, 700)
	r, err := m.trigger(event(0, "192.0.2.1", vector.DNS, 5), at(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "trigger", says(r), "192.0.2.1/32 total 700, 192.0.2.1/32 dns-amplification 700")
	if r.GetSpan().AsDuration() != 32*time.Millisecond || !r.GetStartTime().AsTime().Equal(at(0)) || r.GetCause() != pb.Report_CAUSE_TRIGGER {
		t.Errorf("report: %v", r)
	}
	// The total passed its trigger in the same window: that was said.
	if r, err := m.trigger(event(0, "192.0.2.1", vector.Total, 5), at(21*time.Millisecond)); r != nil || err != nil {
		t.Errorf("a second report of one window: %v %v", r, err)
	}
	if k.hot[0] != [2]uint64{1<<vector.DNS | 1<<vector.Total} {
		t.Errorf("hot: %b", k.hot[0])
	}

	hot := func(now time.Duration) string {
		reports, err := m.hotReports(at(now))
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range reports {
			out = append(out, says(r))
		}
		return strings.Join(out, "; ")
	}
	k.packets("192.0.2.1", vector.DNS, 1000)
	expect(t, "hot", hot(120*time.Millisecond), "192.0.2.1/32 total 1000, 192.0.2.1/32 dns-amplification 1000")
	// Interval reports go on holding everything.
	expect(t, "interval", scanned(t, m, at(130*time.Millisecond)), "192.0.2.1/32 total 1700, 192.0.2.1/32 dns-amplification 1700")
	// Half the trigger is not calm.
	k.packets("192.0.2.1", vector.DNS, 1000+1)
	hot(220 * time.Millisecond)
	k.packets("192.0.2.1", vector.DNS, 10)
	expect(t, "below", hot(320*time.Millisecond), "192.0.2.1/32 total 10, 192.0.2.1/32 dns-amplification 10")
	expect(t, "silent", hot(2300*time.Millisecond), "192.0.2.1/32 total 0, 192.0.2.1/32 dns-amplification 0")
	hot(2320 * time.Millisecond)
	if len(m.hot) != 0 || k.hot[0] != [2]uint64{} {
		t.Errorf("still hot: %v %v", m.hot, k.hot)
	}
	if r, _ := m.trigger(event(0, "192.0.2.1", vector.DNS, 99), at(3*time.Second)); r == nil {
		t.Error("the next attack raises no report")
	}
}

func TestTriggerThatIsLate(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24")
	k.packets("192.0.2.1", vector.DNS, 1)
	// The window is over and its cells count another: the event's own numbers stand.
	r, err := m.trigger(event(0, "192.0.2.1", vector.DNS, 5), at(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "late", says(r), "192.0.2.1/32 total 640, 192.0.2.1/32 dns-amplification 640")
	// What was missing then is said when its own event comes.
	e := event(0, "192.0.2.1", vector.SYN, 5)
	e.packets, e.bytes = 650, 65_000
	if r, err = m.trigger(e, at(time.Second)); err != nil {
		t.Fatal(err)
	}
	expect(t, "its second vector", says(r), "192.0.2.1/32 total 650, 192.0.2.1/32 syn 650, 192.0.2.1/32 dns-amplification 1")
	// The slot has another holder: nothing is said of either.
	if r, err := m.trigger(event(0, "192.0.2.2", vector.SYN, 6), at(time.Second)); r != nil || err != nil {
		t.Errorf("an event of a former holder: %v %v", r, err)
	}
	if r, err := m.trigger(event(99, "192.0.2.2", vector.SYN, 6), at(time.Second)); r != nil || err != nil {
		t.Errorf("an event of no slot: %v %v", r, err)
	}
}

func TestTriggerOfAPrefix(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24")
	for i := range 5 {
		k.packets(fmt.Sprintf("192.0.2.%d", i), vector.DNS, 700)
	}
	e := event(4, "192.0.2.4", vector.DNS, 5)
	e.addr = netip.MustParseAddr("192.0.2.0")
	r, err := m.trigger(e, at(0))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "trigger", says(r), "192.0.2.0/24 total 700, 192.0.2.0/24 dns-amplification 700")
	follow(t, m, 2, "198.51.100.0/24")
	if len(m.hot) != 0 {
		t.Error("a prefix that is gone is still hot")
	}
}

func TestErrorsOfTheKernelAreReturned(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24")
	k.packets("192.0.2.1", vector.DNS, 700)
	k.fail = errors.New("map is gone")
	if err := m.scan(at(0)); !errors.Is(err, k.fail) {
		t.Errorf("scan: %v", err)
	}
	if _, err := m.trigger(event(0, "192.0.2.1", vector.DNS, 5), at(0)); !errors.Is(err, k.fail) {
		t.Errorf("trigger: %v", err)
	}
	k.fail = nil
	expect(t, "afterwards", scanned(t, m, at(time.Second)), "192.0.2.1/32 total 700, 192.0.2.1/32 dns-amplification 700")
}
