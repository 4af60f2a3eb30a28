package ingest

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// errReplaced ends a stream whose sensor connected again.
var errReplaced = errors.New("the sensor opened another stream")

// sensor is what is known of one sensor; kept after its stream ended, for its absence is what one wants to see.
type sensor struct {
	name string

	mu    sync.Mutex
	state State                   // guarded by mu
	last  uint64                  // guarded by mu; sequence of the newest report
	early uint64                  // guarded by mu; reports that came inside of a merged one, before their number's turn
	taken uint64                  // guarded by mu; sequence of the newest interval report of the sensor's process
	ended time.Time               // guarded by mu; end of the newest interval report, by the sensor's clock
	since time.Time               // guarded by mu; when the stream began
	end   context.CancelCauseFunc // guarded by mu; ends the present stream; nil when there is none
	clock clock                   // guarded by mu
	owner int                     // guarded by mu; counts streams, so that an old one does not end a new one's state
}

// State is one sensor as this controller sees it.
type State struct {
	Name           string
	Version        string
	Started        time.Time
	Interfaces     []Interface
	MapBytes       uint64
	Connected      bool
	Stale          bool
	Address        string
	LastReport     time.Time
	Reports        uint64
	Missing        uint64        // reports lost, by their sequence numbers
	ClockSkew      time.Duration // the sensor's clock minus ours, the network's delay included
	Clock          *Clock        // nil while it is not known
	Counters       Counters
	Rates          Rates
	Term, Revision uint64 // of the directive it follows
	DirectiveError string
	Problems       []Problem // the worst first

	lost [len(lossKinds)]time.Time // when it lost something last
}

// Clock is what is known of a sensor's clock: its clock minus ours, wrong by half the delay there and back at most.
type Clock struct{ Offset, Delay time.Duration }

// Interface is one door of a sensor.
type Interface struct {
	Name       string
	Mirror     bool
	Attachment string // "tcx", "clsact", "xdp-native", "xdp-generic"; empty when it is not attached, or does not say
	Outbound   bool
	Down       bool // it is there, and down or without a carrier
}

// Counters are a sensor's running totals since they began, but for the sizes.
type Counters struct {
	Packets, Bytes, Outbound               uint64
	Unprotected, Foreign, Malformed, NonIP uint64 // packets
	SlotExhausted                          uint64 // packets
	LostTriggers, LostSamples              uint64
	DroppedReports, MergedReports          uint64 // of the stream to this controller
	SlotsUsed, SlotsTotal                  uint64
	SampleOneIn                            uint32 // as it really samples
	CPU                                    time.Duration
	Resident                               uint64 // bytes
	Maps                                   []Map
}

// Map is one of the kernel's maps at a sensor. Total is 0 where entries are not counted.
type Map struct {
	Name                     string
	Bytes, Used, Total, Lost uint64
}

// Rates are what changed between a sensor's last two interval reports, per second.
type Rates struct {
	Packets, Bits, Outbound float64
	CPU                     float64 // of one core
}

// What a sensor says of itself is kept, and so bounded.
const (
	maxText       = 1024 // characters
	maxInterfaces = 256
	maxMaps       = 64
)

func bounded(text string) string {
	if len(text) > maxText {
		return text[:maxText]
	}
	return text
}

var attachments = map[pb.Interface_Attachment]string{
	pb.Interface_ATTACHMENT_TCX: "tcx", pb.Interface_ATTACHMENT_CLSACT: "clsact",
	pb.Interface_ATTACHMENT_XDP_NATIVE: "xdp-native", pb.Interface_ATTACHMENT_XDP_GENERIC: "xdp-generic",
}

func interfaces(list []*pb.Interface) []Interface {
	var out []Interface
	for _, i := range list[:min(len(list), maxInterfaces)] {
		out = append(out, Interface{
			Name: bounded(i.GetName()), Mirror: i.GetMode() == pb.Interface_MODE_MIRROR, Attachment: attachments[i.GetAttachment()],
			Outbound: i.GetOutbound(), Down: i.GetDown(),
		})
	}
	return out
}

// countsOutbound reports whether the sensor counts what leaves on all of its interfaces.
func (x *sensor) countsOutbound() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.state.Interfaces) > 0 && !slices.ContainsFunc(x.state.Interfaces, func(i Interface) bool { return !i.Outbound })
}

func (s *Server) join(name, addr string, h *pb.Hello, cancel context.CancelCauseFunc) (*sensor, error) {
	s.mu.Lock()
	x := s.sensors[name]
	if x == nil {
		if len(s.sensors) >= maxSensors {
			s.mu.Unlock()
			return nil, status.Errorf(codes.ResourceExhausted, "%d sensors are known already: restart the controller if most of them are gone for good", maxSensors)
		}
		x = &sensor{name: name}
		s.sensors[name] = x
	}
	s.mu.Unlock()

	x.mu.Lock()
	defer x.mu.Unlock()
	if x.end != nil {
		x.end(errReplaced)
	}
	x.end = cancel
	x.owner++
	x.last, x.since = 0, time.Now()
	x.clock = clock{wrong: x.clock.wrong}
	st := x.state
	st.Name, st.Address, st.Version, st.Connected, st.MapBytes = name, addr, bounded(h.GetVersion()), true, h.GetMapBytes()
	st.Interfaces, st.DirectiveError, st.Rates = interfaces(h.GetInterfaces()), "", Rates{}
	started := time.Time{}
	if h.GetStartTime() != nil && h.GetStartTime().CheckValid() == nil {
		started = h.GetStartTime().AsTime()
	}
	if !started.Equal(st.Started) || started.IsZero() { // another process, which counts its reports anew
		st.Started, x.early, x.taken = started, 0, 0
	}
	st.Term, st.Revision = h.GetDirective().GetTerm(), h.GetDirective().GetRevision()
	x.state = st
	return x, nil
}

func (s *Server) leave(x *sensor, cancel context.CancelCauseFunc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	// A newer stream of the same sensor has its own cancel, and its own state.
	if x.owner > 0 {
		x.owner--
	}
	if x.owner == 0 {
		x.end = nil
		x.state.Connected = false
	}
	cancel(nil)
}

// repeats reports whether an interval report was taken before, on a stream that broke before its receipt arrived.
func (x *sensor) repeats(sequence uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if sequence == 0 || sequence > x.taken {
		x.taken = sequence
		return false
	}
	return true
}

// probe returns the next question about the sensor's clock.
func (x *sensor) probe() *pb.ClockProbe {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.clock.probe(time.Now())
}

// ours turns a time of the sensor's clock into one of ours, as far as that is known.
func (x *sensor) ours(now, theirs time.Time) time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	best, _ := x.clock.best(now)
	return theirs.Add(-best.offset)
}

// note keeps what a report says of its sensor.
func (x *sensor) note(now time.Time, r *pb.Report) {
	x.mu.Lock()
	defer x.mu.Unlock()
	st := &x.state
	st.LastReport = now
	st.Reports++
	if seq := r.GetSequence(); seq > 0 {
		if x.last > 0 && seq > x.last+1 {
			gap := seq - x.last - 1
			told := min(gap, x.early)
			x.early -= told
			st.Missing += gap - told
		}
		x.last = max(x.last, seq)
		x.early += uint64(max(1, r.GetMerged())) - 1
	}
	if t := r.GetSendTime(); t.CheckValid() == nil && t != nil {
		st.ClockSkew = t.AsTime().Sub(now)
	}
	st.Term, st.Revision = r.GetDirective().GetTerm(), r.GetDirective().GetRevision()
	st.DirectiveError = bounded(r.GetDirectiveError())
	if c := r.GetCounters(); c != nil {
		x.count(now, r, counters(c))
		if list := c.GetInterfaces(); len(list) > 0 {
			st.Interfaces = interfaces(list)
		}
	}
}

func counters(c *pb.SensorCounters) Counters {
	out := Counters{
		Packets: c.GetPackets(), Bytes: c.GetBytes(), Outbound: c.GetOutboundPackets(), Unprotected: c.GetUnprotectedPackets(),
		Foreign: c.GetForeignSourcePackets(), Malformed: c.GetMalformedPackets(), NonIP: c.GetNonIpPackets(),
		SlotExhausted: c.GetSlotExhaustedPackets(), LostTriggers: c.GetLostTriggers(), LostSamples: c.GetLostSamples(),
		DroppedReports: c.GetDroppedReports(), MergedReports: c.GetMergedReports(), SlotsUsed: c.GetSlotsUsed(), SlotsTotal: c.GetSlotsTotal(),
		SampleOneIn: c.GetSampleOneIn(), CPU: time.Duration(min(c.GetCpuNanoseconds(), math.MaxInt64)), Resident: c.GetResidentBytes(),
	}
	for _, m := range c.GetMaps()[:min(len(c.GetMaps()), maxMaps)] {
		out.Maps = append(out.Maps, Map{Name: bounded(m.GetName()), Bytes: m.GetBytes(), Used: m.GetUsed(), Total: m.GetTotal(), Lost: m.GetLost()})
	}
	return out
}

// count keeps counters and what they say beside those before. Counters that went back began anew.
func (x *sensor) count(now time.Time, r *pb.Report, c Counters) {
	st, old := &x.state, x.state.Counters
	end := r.GetStartTime().AsTime().Add(r.GetSpan().AsDuration())
	if seconds := end.Sub(x.ended).Seconds(); !x.ended.IsZero() && seconds > 0 {
		per := func(now, before uint64) float64 {
			if now < before {
				return 0
			}
			return float64(now-before) / seconds
		}
		st.Rates = Rates{
			Packets: per(c.Packets, old.Packets), Bits: 8 * per(c.Bytes, old.Bytes), Outbound: per(c.Outbound, old.Outbound),
			CPU: per(uint64(c.CPU), uint64(old.CPU)) / float64(time.Second),
		}
		for i, k := range lossKinds {
			if k.of(c) > k.of(old) {
				st.lost[i] = now
			}
		}
	}
	x.ended = end
	st.Counters = c
}

// Sensors returns every sensor heard of since the start, sorted by name.
func (s *Server) Sensors(now time.Time) []State {
	s.mu.Lock()
	asked, directed := s.directive, s.directed
	all := make([]*sensor, 0, len(s.sensors))
	for _, x := range s.sensors {
		all = append(all, x)
	}
	s.mu.Unlock()
	out := make([]State, 0, len(all))
	for _, x := range all {
		x.mu.Lock()
		st := x.state
		if best, ok := x.clock.best(now); ok && st.Connected {
			st.Clock = &Clock{best.offset, best.delay}
		}
		since := x.since
		x.mu.Unlock()
		st.Stale = !st.Connected || now.Sub(st.LastReport) > s.o.StaleAfter
		st.Problems = problems(now, st, min(now.Sub(since), now.Sub(directed)), asked)
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b State) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
