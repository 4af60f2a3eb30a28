package ingest

import (
	"cmp"
	"context"
	"errors"
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
	Term, Revision uint64 // of the directive it follows
	DirectiveError string
}

// Clock is what is known of a sensor's clock: its clock minus ours, wrong by half the delay there and back at most.
type Clock struct{ Offset, Delay time.Duration }

// Interface is one door of a sensor.
type Interface struct {
	Name   string
	Mirror bool
}

// Counters are a sensor's running totals since its start.
type Counters struct {
	Packets, Bytes                               uint64
	Unprotected, Malformed, NonIP, SlotExhausted uint64
	LostTriggers, LostSamples, DroppedReports    uint64
	SlotsUsed, SlotsTotal                        uint64
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
	x.last = 0
	x.clock = clock{wrong: x.clock.wrong}
	st := State{Name: name, Address: addr, Version: h.GetVersion(), Connected: true, MapBytes: h.GetMapBytes(), LastReport: x.state.LastReport, Reports: x.state.Reports, Missing: x.state.Missing, Counters: x.state.Counters}
	if h.GetStartTime().CheckValid() == nil {
		st.Started = h.GetStartTime().AsTime()
	}
	for _, i := range h.GetInterfaces() {
		st.Interfaces = append(st.Interfaces, Interface{Name: i.GetName(), Mirror: i.GetMode() == pb.Interface_MODE_MIRROR})
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
			st.Missing += seq - x.last - 1
		}
		x.last = seq
	}
	if t := r.GetSendTime(); t.CheckValid() == nil && t != nil {
		st.ClockSkew = t.AsTime().Sub(now)
	}
	st.Term, st.Revision = r.GetDirective().GetTerm(), r.GetDirective().GetRevision()
	st.DirectiveError = r.GetDirectiveError()
	if c := r.GetCounters(); c != nil {
		st.Counters = Counters{
			Packets: c.GetPackets(), Bytes: c.GetBytes(), Unprotected: c.GetUnprotectedPackets(), Malformed: c.GetMalformedPackets(),
			NonIP: c.GetNonIpPackets(), SlotExhausted: c.GetSlotExhaustedPackets(), LostTriggers: c.GetLostTriggers(),
			LostSamples: c.GetLostSamples(), DroppedReports: c.GetDroppedReports(), SlotsUsed: c.GetSlotsUsed(), SlotsTotal: c.GetSlotsTotal(),
		}
	}
}

// Sensors returns every sensor heard of since the start, sorted by name.
func (s *Server) Sensors(now time.Time) []State {
	s.mu.Lock()
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
		x.mu.Unlock()
		st.Stale = !st.Connected || now.Sub(st.LastReport) > s.o.StaleAfter
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b State) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
