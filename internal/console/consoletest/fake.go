// Package consoletest has a console.System with fixed content for the tests of the console and of its clients.
package consoletest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Now is the time at which the content of a Fake is true.
var Now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Fake is a System with fixed content. Change its fields before it is used; Fail and Calls at any time.
type Fake struct {
	StatusNow      console.Status
	SensorList     []console.Sensor
	PeerList       []console.Peer
	SpeakerError   string
	IncidentList   []detect.Incident
	MitigationList []mitigation.Mitigation
	HoldList       []mitigation.Hold
	RoutesNow      console.Routes
	PolicyNow      console.Policy
	EventList      []console.Event // recorded, newest first

	EventsIncomplete string

	mu          sync.Mutex
	fail        map[string]error                 // guarded by mu; by method of System
	panics      map[string]bool                  // guarded by mu
	calls       []any                            // guarded by mu; arguments of what changes something
	subscribers map[int]func(console.Event)      // guarded by mu
	next        int                              // guarded by mu
	byRequest   map[string]mitigation.Mitigation // guarded by mu
	subscribed  chan struct{}
	left        chan struct{}
}

// MustRoute parses a route or panics.
func MustRoute(s string) route.Route {
	r, err := route.Parse(s)
	if err != nil {
		panic(err)
	}
	return r
}

// New returns a Fake in the middle of two attacks.
func New() *Fake {
	ago := func(d time.Duration) time.Time { return Now.Add(-d) }
	in := func(d time.Duration) time.Time { return Now.Add(d) }
	dns := MustRoute("destination 203.0.113.10/32 protocol udp source-port 53 then rate-limit 1Mbps")
	syn := MustRoute("destination 2001:db8::10/128 protocol tcp tcp-flags syn&!ack then rate-limit 500pps")
	hand := MustRoute("destination 203.0.113.77/32 then blackhole")
	stray := MustRoute("destination 203.0.113.99/32 then discard")
	return &Fake{
		StatusNow: console.Status{
			Controller: "controller-1", Version: "v1.2.3", Started: ago(26 * time.Hour), Leader: "controller-1", Term: 7, IsLeader: true,
			SensorsKnown: 2, SensorsStale: 1, PeersConfigured: 2, PeersEstablished: 1, IncidentsActive: 2, MitigationsActive: 3,
			RoutesDesired: 3, RoutesSent: 2, PolicyHash: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			PolicySource: "/etc/trafficmonitor/policy.yaml",
		},
		SensorList: []console.Sensor{
			{
				Name: "rack2", Version: "v1.2.2", Started: ago(time.Hour), Interfaces: []console.SensorInterface{{Name: "mirror0", Mirror: true}},
				Stale: true, LastReport: ago(95 * time.Second), Address: "192.0.2.52:40000", Reports: 100, MissingReports: 3,
				DirectiveError: "protected_prefixes[3]: 1000 prefixes are above 512",
				Problems:       []string{"it has no stream to this controller"}, SampleOneIn: 1024,
			},
			{
				Name: "rack1", Version: "v1.2.3", Started: ago(49 * time.Hour), MapBytes: 8 << 20,
				Interfaces: []console.SensorInterface{{Name: "eth0", Attachment: "tcx", Outbound: true}, {Name: "eth1", Attachment: "clsact", Down: true}}, Connected: true, LastReport: ago(400 * time.Millisecond),
				Address: "192.0.2.51:40001", Reports: 176400, ClockSkew: -1500 * time.Microsecond, Directive: console.DirectiveVersion{Term: 7, Revision: 2},
				Counters: console.SensorCounters{
					Packets: 123456789, Bytes: 98765432100, OutboundPackets: 23456789, UnprotectedPackets: 1000, ForeignSourcePackets: 3,
					MalformedPackets: 5, NonIPPackets: 40, LostSamples: 12, MergedReports: 2, SlotsUsed: 300, SlotsTotal: 65536, SampleOneIn: 4096,
					CPU: 90 * time.Second, ResidentBytes: 17 << 20,
					Maps: []console.SensorMap{{Name: "records", Bytes: 8 << 20, Used: 300, Total: 65536}, {Name: "samples", Bytes: 128 << 10, Lost: 12}},
				},
				Clock: &console.SensorClock{Offset: -1200 * time.Microsecond, Delay: 400 * time.Microsecond},
				Rates: console.SensorRates{Packets: 104_000, Bits: 830e6, Outbound: 4000, CPU: 0.012}, SampleOneIn: 1024,
				Problems: []string{"it samples one packet in 4096 rather than in 1024: its CPU budget is spent"},
			},
		},
		PeerList: []console.Peer{
			{
				Name: "edge2", Group: "transit", Address: "192.0.2.2", ASN: 64500, State: console.SessionActive, Since: ago(3 * time.Minute), DesiredRoutes: 3, PendingRoutes: 3,
				EstablishedCount: 4, LastError: "hold timer expired", LastErrorTime: ago(3 * time.Minute),
				Profile: "generic", ProbeError: "ask the router \"show x\": no answer within 10s",
			},
			{
				Name: "edge1", Address: "192.0.2.1", ASN: 64500, State: console.SessionEstablished, Since: ago(26 * time.Hour),
				Families: []string{"ipv4-flowspec", "ipv4-unicast"}, MissingFamilies: []string{"ipv6-flowspec"},
				DesiredRoutes: 2, SentRoutes: 2, UnsupportedRoutes: 1, QuarantinedRoutes: 1, EstablishedCount: 1,
				Profile: "frr", HardwareEntries: 3, InstalledRules: 2, NotInstalledRules: 1, HitPackets: 6780, ProbeTime: ago(10 * time.Second),
			},
		},
		IncidentList: []detect.Incident{
			{
				ID: "i-1", Target: netip.MustParsePrefix("203.0.113.10/32"), Test: detect.Unanswered, Previous: "i-0", Group: "customers", Onset: ago(5 * time.Minute), Decided: ago(5*time.Minute - 12*time.Millisecond),
				Vectors: []detect.Measurement{
					{Vector: vector.Total, PPS: 104000, BPS: 1.2e9, PeakPPS: 130000, PeakBPS: 1.5e9, LimitPPS: 50000},
					{Vector: vector.DNS, PPS: 100000, BPS: 1.1e9, PeakPPS: 125000, PeakBPS: 1.4e9, LimitPPS: 20000},
				},
				Reason: "dns-amplification 100000 pps is above 20000 pps", Sensors: []string{"rack1", "rack2"},
			},
			{
				ID: "i-2", Target: netip.MustParsePrefix("2001:db8::10/128"), Direction: vector.Outbound, Test: detect.Static, Group: "default", Onset: ago(90 * time.Second), Decided: ago(90*time.Second - 8*time.Millisecond),
				Vectors: []detect.Measurement{{Vector: vector.SYN, PPS: 84500, BPS: 4.0e7, PeakPPS: 99999, PeakBPS: 4.8e7, LimitPPS: 20000}},
				Reason:  "syn 84500 pps is above 20000 pps", Sensors: []string{"rack1"},
			},
			{
				ID: "i-0", Target: netip.MustParsePrefix("203.0.113.20/32"), Group: "customers", Onset: ago(2 * time.Hour), Decided: ago(2*time.Hour - 9*time.Millisecond), Ended: ago(100 * time.Minute),
				Vectors: []detect.Measurement{{Vector: vector.NTP, PeakPPS: 45000, PeakBPS: 1.6e8, LimitPPS: 20000}},
				Reason:  "ntp-amplification 45000 pps is above 20000 pps", Sensors: []string{"rack1"},
			},
		},
		MitigationList: []mitigation.Mitigation{
			{
				ID: "m-1", Target: netip.MustParsePrefix("203.0.113.10/32"), State: mitigation.Active, Incident: "i-1", Vectors: []vector.ID{vector.DNS},
				Routes: []route.Route{dns}, Requester: mitigation.Automation, Reason: "response 1 of group customers", Created: ago(5*time.Minute - 13*time.Millisecond),
				Deadline: in(5 * time.Minute), MaxDeadline: in(55 * time.Minute), Extend: 5 * time.Minute, Extensions: 1, Evidence: "the trickle shows that the attack goes on",
				Phase: mitigation.Verified, Since: ago(5*time.Minute - 1513*time.Millisecond), Rung: mitigation.Rung{Step: 0, Steps: 3, Name: "rate-limit 1 Mbps"},
				Effect: mitigation.Effect{
					BeforePPS: 120000, BeforeBPS: 3.1e8, PPS: 370, BPS: 950000, Reduction: 0.9969, Measured: ago(time.Second), Verified: ago(5*time.Minute - 1513*time.Millisecond),
				},
			},
			{
				ID: "m-2", Target: netip.MustParsePrefix("2001:db8::10/128"), State: mitigation.Active, Incident: "i-2", Vectors: []vector.ID{vector.SYN},
				Routes: []route.Route{syn}, Requester: mitigation.Automation, Reason: "response 1 of group default", Created: ago(90*time.Second - 9*time.Millisecond),
				Deadline: in(210 * time.Second), MaxDeadline: in(58*time.Minute + 30*time.Second), Phase: mitigation.Ineffective, Since: ago(80 * time.Second),
				Rung: mitigation.Rung{Step: 0, Steps: 2, Name: "rate-limit 1 Mbps"},
				Ask: &mitigation.Ask{Step: 1, Needs: 2, Why: "responses[0].ladder[1] follows rate-limit 1 Mbps", Since: ago(80 * time.Second), By: []mitigation.Approval{
					{Who: "ann", When: ago(70 * time.Second), Reason: "seen it"},
				}},
			},
			{
				ID: "m-3", Target: netip.MustParsePrefix("203.0.113.77/32"), State: mitigation.Active, Routes: []route.Route{hand},
				Requester: "eva", Reason: "ticket 4711", Created: ago(time.Hour), Deadline: in(23 * time.Hour), MaxDeadline: in(23 * time.Hour), Approved: true, Phase: mitigation.Announced, Since: ago(time.Hour),
			},
			{
				ID: "m-0", Target: netip.MustParsePrefix("203.0.113.20/32"), State: mitigation.Ended, Incident: "i-0", Vectors: []vector.ID{vector.NTP},
				Routes: []route.Route{MustRoute("destination 203.0.113.20/32 protocol udp source-port 123 then discard")}, Requester: mitigation.Automation,
				Reason: "response 1 of group customers", Created: ago(2 * time.Hour), Deadline: ago(100 * time.Minute), MaxDeadline: ago(time.Hour),
				Ended: ago(100 * time.Minute), EndReason: mitigation.EndDeadline, Phase: mitigation.Expired, Since: ago(100 * time.Minute),
			},
		},
		HoldList: []mitigation.Hold{
			{Target: netip.MustParsePrefix("203.0.113.0/28"), Until: in(15 * time.Minute), Requester: "eva", Reason: "customer tests"},
			{Target: netip.MustParsePrefix("198.51.100.7/32"), Until: in(30 * time.Second), Requester: "ops (unix uid 0)", Reason: "false alarm"},
		},
		RoutesNow: console.Routes{
			Desired: []console.Route{
				{Route: hand, Deadline: in(23 * time.Hour), Created: ago(time.Hour), Owners: []string{"m-3"}, Approved: true, Peers: []console.PeerRoute{
					{Peer: "edge1", State: console.RouteSent, Sent: ago(time.Hour)},
					{Peer: "edge2", State: console.RoutePending, Reason: "session is active"},
				}},
				{Route: dns, Deadline: in(5 * time.Minute), Created: ago(5 * time.Minute), Owners: []string{"m-1"}, Peers: []console.PeerRoute{
					{
						Peer: "edge1", State: console.RouteSent, Sent: ago(5 * time.Minute),
						Rules: []string{dns.String()}, Widened: "dscp 10 is not matched there: every dscp matches",
						Probe: &console.RouteProbe{Installed: console.InstalledYes, Packets: ptr[uint64](6780), Octets: ptr[uint64](395784), Time: ago(10 * time.Second)},
					},
					{Peer: "edge2", State: console.RoutePending, Reason: "session is active"},
				}},
				{Route: syn, Deadline: in(210 * time.Second), Created: ago(90 * time.Second), Owners: []string{"m-2"}, Peers: []console.PeerRoute{
					{Peer: "edge1", State: console.RouteUnsupported, Reason: "the router does not take ipv6-flowspec"},
					{Peer: "edge2", State: console.RoutePending, Reason: "session is active"},
				}},
			},
			Unexpected: []console.Route{{Route: stray, Deadline: in(time.Minute), Created: ago(9 * time.Minute), Owners: []string{"m-9"}, Peers: []console.PeerRoute{
				{Peer: "edge1", State: console.RouteSent, Sent: ago(9 * time.Minute), Probe: &console.RouteProbe{
					Installed: console.InstalledNo, Reason: "the router does not show it", Time: ago(10 * time.Second),
				}},
			}}},
		},
		PolicyNow: console.Policy{
			Source: "/etc/trafficmonitor/policy.yaml", Hash: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			Text: "groups:\n  default: {}\n", Loaded: ago(26 * time.Hour),
		},
		EventList: []console.Event{
			{Controller: "c1", Time: ago(4 * time.Minute), Kind: "manual_withdraw", Message: "destination 198.51.100.7/32 then discard ended: withdrawn: ops: false alarm", Attributes: map[string]string{"mitigation": "m-0", "target": "198.51.100.7/32"}},
			{Controller: "c1", Time: ago(5*time.Minute - 12*time.Millisecond), Kind: "route_sent", Message: dns.String() + " was sent to edge1", Attributes: map[string]string{"route": dns.String(), "peer": "edge1", "mitigation": "m-1"}},
			{Controller: "c1", Time: ago(5*time.Minute - 3*time.Millisecond), Kind: "mitigation_created", Message: dns.String() + " until 12:05:00", Attributes: map[string]string{"incident": "i-1", "mitigation": "m-1", "target": "203.0.113.10/32", "route": dns.String()}},
			{Controller: "c1", Time: ago(5 * time.Minute), Kind: "incident_onset", Message: "dns-amplification: 93.4 kpps of 20 kpps", Attributes: map[string]string{"incident": "i-1", "target": "203.0.113.10/32"}},
			{Controller: "c2", Time: ago(26 * time.Hour), Kind: "policy_loaded", Message: "policy /etc/trafficmonitor/policy.yaml is in force, hash 0123456789ab"},
			{Time: ago(27 * time.Hour), Kind: "freeze_lifted", Message: "eva resumes automation: maintenance is over"},
		},
		fail: map[string]error{}, panics: map[string]bool{}, subscribers: map[int]func(console.Event){},
		byRequest: map[string]mitigation.Mitigation{}, subscribed: make(chan struct{}, 16), left: make(chan struct{}, 16),
	}
}

// Fail makes a method of System return err; nil mends it.
func (f *Fake) Fail(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[method] = err
}

// Panic makes a method of System panic.
func (f *Fake) Panic(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.panics[method] = true
}

// Calls returns the arguments of all calls that change something, and forgets them.
func (f *Fake) Calls() []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls
	f.calls = nil
	return c
}

// Emit sends an event to all subscribers.
func (f *Fake) Emit(e console.Event) {
	f.mu.Lock()
	subscribers := make([]func(console.Event), 0, len(f.subscribers))
	for _, fn := range f.subscribers {
		subscribers = append(subscribers, fn)
	}
	f.mu.Unlock()
	for _, fn := range subscribers {
		fn(e)
	}
}

// Subscribed holds a token for each subscription made.
func (f *Fake) Subscribed() <-chan struct{} { return f.subscribed }

// Unsubscribed holds a token for each subscription that was cancelled.
func (f *Fake) Unsubscribed() <-chan struct{} { return f.left }

var uid = regexp.MustCompile(`unix uid \d+`)

// anyUser makes answers independent of the user that runs the test.
func anyUser(requester string) string { return uid.ReplaceAllString(requester, "unix uid 0") }

func (f *Fake) enter(ctx context.Context, method string, call any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.panics[method] {
		panic(method + " was told to panic")
	}
	if err := f.fail[method]; err != nil {
		return err
	}
	if call != nil {
		f.calls = append(f.calls, call)
	}
	return ctx.Err()
}

// Status is of console.System.
func (f *Fake) Status(ctx context.Context) (console.Status, error) {
	return f.StatusNow, f.enter(ctx, "Status", nil)
}

// Sensors is of console.System.
func (f *Fake) Sensors(ctx context.Context) ([]console.Sensor, error) {
	return f.SensorList, f.enter(ctx, "Sensors", nil)
}

// Peers is of console.System.
func (f *Fake) Peers(ctx context.Context) ([]console.Peer, string, error) {
	return f.PeerList, f.SpeakerError, f.enter(ctx, "Peers", nil)
}

// Incidents is of console.System.
func (f *Fake) Incidents(ctx context.Context, ended bool) ([]detect.Incident, error) {
	out := slices.Clone(f.IncidentList)
	if !ended {
		out = slices.DeleteFunc(out, func(i detect.Incident) bool { return !i.Active() })
	}
	return out, f.enter(ctx, "Incidents", nil)
}

// Explain is of console.System.
func (f *Fake) Explain(ctx context.Context, target netip.Prefix) ([]string, error) {
	return []string{fmt.Sprintf("%s is in group default.", target), "No sensor reports traffic of it now."}, f.enter(ctx, "Explain", nil)
}

// Mitigations is of console.System.
func (f *Fake) Mitigations(ctx context.Context, ended bool) ([]mitigation.Mitigation, error) {
	out := slices.Clone(f.MitigationList)
	if !ended {
		out = slices.DeleteFunc(out, func(m mitigation.Mitigation) bool {
			return m.State != mitigation.Active && m.State != mitigation.Pending
		})
	}
	return out, f.enter(ctx, "Mitigations", nil)
}

// Holds is of console.System.
func (f *Fake) Holds(ctx context.Context) ([]mitigation.Hold, error) {
	return f.HoldList, f.enter(ctx, "Holds", nil)
}

// Routes is of console.System.
func (f *Fake) Routes(ctx context.Context) (console.Routes, error) {
	return f.RoutesNow, f.enter(ctx, "Routes", nil)
}

// Announce is of console.System.
func (f *Fake) Announce(ctx context.Context, a console.Announce) (mitigation.Mitigation, error) {
	if err := f.enter(ctx, "Announce", a); err != nil {
		return mitigation.Mitigation{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m, ok := f.byRequest[a.RequestID]; ok {
		return m, nil
	}
	m := mitigation.Mitigation{
		ID: fmt.Sprintf("m-%d", 4+len(f.byRequest)), Target: a.Route.Match.Destination, State: mitigation.Active, Phase: mitigation.Announced, Since: Now, Routes: []route.Route{a.Route},
		Requester: anyUser(a.Requester), Reason: a.Reason, RequestID: a.RequestID, Approved: a.Approved,
		Created: Now, Deadline: Now.Add(a.TTL), MaxDeadline: Now.Add(a.TTL),
	}
	if a.RequestID != "" && !a.ValidateOnly {
		f.byRequest[a.RequestID] = m
	}
	return m, nil
}

// Preview is of console.System.
func (f *Fake) Preview(ctx context.Context, r route.Route) (console.Preview, error) {
	return console.Preview{Samples: 900, Collateral: 0.0033, Peers: []console.PeerPreview{
		{Peer: "edge1", Profile: "generic", Rules: []string{r.String()}, Cost: 1},
		{Peer: "edge2", Profile: "frr", Reason: "the router does not do that"},
	}}, f.enter(ctx, "Preview", nil)
}

// Approve is of console.System.
func (f *Fake) Approve(ctx context.Context, a console.Answer) (mitigation.Mitigation, error) {
	return f.word(ctx, "Approve", a, func(m *mitigation.Mitigation) {
		m.State, m.Phase = mitigation.Active, mitigation.Announced
	})
}

// Reject is of console.System.
func (f *Fake) Reject(ctx context.Context, a console.Answer) (mitigation.Mitigation, error) {
	return f.word(ctx, "Reject", a, func(m *mitigation.Mitigation) {
		m.State, m.Phase, m.Ended, m.EndReason, m.EndDetail = mitigation.Refused, mitigation.Rejected, Now, mitigation.EndRejected, anyUser(a.Requester)+": "+a.Reason
	})
}

// Extend is of console.System.
func (f *Fake) Extend(ctx context.Context, a console.Answer, by time.Duration) (mitigation.Mitigation, error) {
	return f.word(ctx, "Extend", a, func(m *mitigation.Mitigation) { m.Deadline = m.Deadline.Add(by) })
}

func (f *Fake) word(ctx context.Context, what string, a console.Answer, do func(*mitigation.Mitigation)) (mitigation.Mitigation, error) {
	if err := f.enter(ctx, what, a); err != nil {
		return mitigation.Mitigation{}, err
	}
	for _, m := range f.MitigationList {
		if m.ID == a.ID {
			do(&m)
			return m, nil
		}
	}
	return mitigation.Mitigation{}, console.ErrNotFound{What: fmt.Sprintf("live mitigation %q", a.ID)}
}

// Withdraw is of console.System.
func (f *Fake) Withdraw(ctx context.Context, w console.Withdraw) (console.Withdrawn, error) {
	if err := f.enter(ctx, "Withdraw", w); err != nil {
		return console.Withdrawn{}, err
	}
	var out console.Withdrawn
	for _, m := range f.MitigationList {
		inside := w.Target.IsValid() && w.Target.Bits() <= m.Target.Bits() && w.Target.Contains(m.Target.Addr())
		if m.State != mitigation.Active || (m.ID != w.ID && !w.All && !inside) {
			continue
		}
		m.State, m.Phase, m.Since, m.Ended, m.EndReason, m.EndDetail = mitigation.Ended, mitigation.Withdrawn, Now, Now, mitigation.EndWithdrawn, anyUser(w.Requester)+": "+w.Reason
		out.Mitigations = append(out.Mitigations, m)
		hold := 30 * time.Minute
		if w.Hold != nil {
			hold = *w.Hold
		}
		if hold > 0 {
			out.Holds = append(out.Holds, mitigation.Hold{Target: m.Target, Until: Now.Add(hold), Requester: anyUser(w.Requester), Reason: w.Reason})
		}
	}
	if w.ID != "" && len(out.Mitigations) == 0 {
		return console.Withdrawn{}, console.ErrNotFound{What: fmt.Sprintf("active mitigation %q", w.ID)}
	}
	return out, nil
}

// DeleteHold is of console.System.
func (f *Fake) DeleteHold(ctx context.Context, d console.DeleteHold) error {
	if err := f.enter(ctx, "DeleteHold", d); err != nil {
		return err
	}
	if !slices.ContainsFunc(f.HoldList, func(h mitigation.Hold) bool { return h.Target == d.Target }) {
		return console.ErrNotFound{What: "hold on " + d.Target.String()}
	}
	return nil
}

// ReleaseQuarantine is of console.System: edge1 has one route in quarantine.
func (f *Fake) ReleaseQuarantine(ctx context.Context, q console.ReleaseQuarantine) ([]string, error) {
	if err := f.enter(ctx, "ReleaseQuarantine", q); err != nil {
		return nil, err
	}
	if q.Peer != "edge1" {
		return nil, console.ErrNotFound{What: "router " + q.Peer}
	}
	if q.Family != "" {
		return []string{q.Family}, nil
	}
	return []string{"destination 203.0.113.78/32 then discard"}, nil
}

// SetFreeze is of console.System.
func (f *Fake) SetFreeze(ctx context.Context, s console.SetFreeze) (*mitigation.Freeze, error) {
	if err := f.enter(ctx, "SetFreeze", s); err != nil || !s.Frozen {
		return nil, err
	}
	return &mitigation.Freeze{Group: s.Group, Since: Now, Requester: anyUser(s.Requester), Reason: s.Reason}, nil
}

// Policy is of console.System.
func (f *Fake) Policy(ctx context.Context) (console.Policy, error) {
	return f.PolicyNow, f.enter(ctx, "Policy", nil)
}

// Events is of console.System.
func (f *Fake) Events(ctx context.Context, q console.EventQuery) (console.Events, error) {
	if err := f.enter(ctx, "Events", nil); err != nil {
		return console.Events{}, err
	}
	var out console.Events
	for _, e := range f.EventList {
		if (q.Until.IsZero() || e.Time.Before(q.Until)) && !e.Time.Before(q.Since) && len(out.Events) < q.Limit &&
			(len(q.Kinds) == 0 || slices.Contains(q.Kinds, e.Kind)) &&
			(len(q.About) == 0 || slices.ContainsFunc(slices.Collect(maps.Values(e.Attributes)), func(v string) bool {
				return slices.Contains(q.About, v) || slices.Contains(q.About, strings.TrimSuffix(v, "/32"))
			})) {
			out.Events = append(out.Events, e)
		}
	}
	out.Incomplete = f.EventsIncomplete
	return out, nil
}

// Subscribe is of console.System.
func (f *Fake) Subscribe(fn func(console.Event)) (cancel func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.next
	f.next++
	f.subscribers[id] = fn
	select {
	case f.subscribed <- struct{}{}:
	default:
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subscribers, id)
		select {
		case f.left <- struct{}{}:
		default:
		}
	}
}

func ptr[T any](v T) *T { return &v }
