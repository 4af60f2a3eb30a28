package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// Result is what became of one cell at one router.
type Result struct {
	Router        string `json:"router"`
	Version       string `json:"version"`
	Family        string `json:"family"`
	Component     string `json:"component"`
	Operator      string `json:"operator"`
	Action        string `json:"action"`
	Route         string `json:"route"`
	Sent          bool   `json:"sent"`            // the speaker handed it to BGP for this router
	Accepted      bool   `json:"accepted"`        // the session stayed up and the router's own tool shows it
	ReadBackEqual bool   `json:"read_back_equal"` // … and shows what was meant
	Withdrawn     bool   `json:"withdrawn"`       // after the withdrawal it is gone there
	Deviation     string `json:"deviation,omitempty"`
	Note          string `json:"note,omitempty"`

	cell    Cell
	raw     string // what the router printed
	matches bool   // it shows the match that was meant
}

// refusedNote begins the note of a cell that our safety kernel refuses.
const refusedNote = "refused by the speaker: "

// Outcomes of a cell, the first that went wrong.
const (
	asMeant        = "as meant"
	notSent        = "not sent"
	notAccepted    = "not accepted"
	readsOther     = "reads differently"
	staysAnnounced = "stays"
)

// outcomes are what can go wrong, in this order.
var outcomes = []string{notSent, notAccepted, readsOther, staysAnnounced}

// Outcome is the first thing that did not go as meant.
func (r Result) Outcome() string {
	switch {
	case !r.Sent:
		return notSent
	case !r.Accepted:
		return notAccepted
	case !r.ReadBackEqual:
		return readsOther
	case !r.Withdrawn:
		return staysAnnounced
	}
	return asMeant
}

// patience is how long a router has for what it does at once.
const patience = 60 * time.Second

// sentinels are routes behind a batch, one in each table: when the router shows them, it has seen what was sent before.
func (p *pair) sentinels(families []lab.AddressFamily, n int) ([]route.Route, error) {
	texts := map[lab.AddressFamily]string{
		lab.Unicast4: "destination {host} then blackhole", lab.Unicast6: "destination {host} then blackhole",
		lab.FlowSpec4: "destination {host} protocol udp then discard", lab.FlowSpec6: "destination {host} protocol udp then discard",
	}
	var out []route.Route
	for _, f := range families {
		family := route.IPv4
		if f == lab.Unicast6 || f == lab.FlowSpec6 {
			family = route.IPv6
		}
		r, err := route.Parse(fill(texts[f], family, n))
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// runner tries cells at one router.
type runner struct {
	*pair
	im         implementation
	negotiated []lab.AddressFamily
	log        func(format string, args ...any)
	batches    int
}

// run tries all cells, in as few batches as the router stands.
func (x *runner) run(ctx context.Context, cells []Cell) ([]Result, error) {
	var err error
	if x.negotiated, err = x.router.Negotiated(ctx, "speaker"); err != nil {
		return nil, err
	}
	var together []Cell
	var alone []Cell
	for _, c := range cells {
		if d := listed(x.im.Name, c); d != nil && d.Outcome == notAccepted {
			alone = append(alone, c) // it may take the session with it
			continue
		}
		together = append(together, c)
	}
	out, err := x.try(ctx, together)
	for _, c := range alone {
		var one []Result
		// A NOTIFICATION can be lost: a router that closes its connection with something unread there resets it.
		for tries := 0; err == nil && (tries == 0 || tries < 3 && unproven(one[0])); tries++ {
			one, err = x.try(ctx, []Cell{c})
		}
		out = append(out, one...)
	}
	return out, err
}

// unproven reports whether a cell went wrong as it is listed, without the evidence.
func unproven(r Result) bool {
	d := listed(r.Router, r.cell)
	return d != nil && r.Outcome() == d.Outcome && !d.shown(r)
}

// errReset says that the session was lost.
var errReset = errors.New("the session was reset")

// try tries cells in one batch; when that costs the session, in two halves, until it is known which cell does.
func (x *runner) try(ctx context.Context, cells []Cell) ([]Result, error) {
	if len(cells) == 0 {
		return nil, nil
	}
	out, err := x.batch(ctx, cells)
	if !errors.Is(err, errReset) {
		return out, err
	}
	if len(cells) > 1 {
		x.log("%s: %d cells cost the session, halving them: %v", x.im.Name, len(cells), err)
	}
	if rerr := x.recover(ctx); rerr != nil {
		return nil, rerr
	}
	if len(cells) == 1 {
		r := x.result(cells[0])
		r.Sent, r.Note = true, err.Error()
		return []Result{r}, nil
	}
	first, err := x.try(ctx, cells[:len(cells)/2])
	if err != nil {
		return nil, err
	}
	second, err := x.try(ctx, cells[len(cells)/2:])
	return append(first, second...), err
}

// recover starts the speaker anew, without what it remembers of the router: it would wait longer after each reset, and
// keep the rule that it suspects from the router.
func (x *runner) recover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := x.restart(ctx); err != nil {
		return err
	}
	return x.established(ctx)
}

func (x *runner) result(c Cell) Result {
	return Result{
		Router: x.im.Name, Version: x.version, Family: c.Family.String(), Component: c.Component, Operator: c.Operator, Action: c.Action,
		Route: c.Route.String(), cell: c,
	}
}

// batch announces cells, reads them back, withdraws them and sees them go.
func (x *runner) batch(ctx context.Context, cells []Cell) ([]Result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	x.batches++
	before, err := x.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	session := func(st speaker.Status) error {
		s := st.Peers[0]
		if s.State != speaker.Established && s.LastError == "" {
			return errors.New("the session was lost, and why is not told yet")
		}
		if s.Established != before.Peers[0].Established || s.State != speaker.Established {
			return lab.GiveUp(fmt.Errorf("%w: %s", errReset, s.LastError))
		}
		return nil
	}
	refused, err := x.set(ctx, cells)
	if err != nil {
		return nil, err
	}
	status, err := x.settle(ctx, session, cells)
	if err != nil {
		return nil, err
	}
	have, err := x.await(ctx, session, 3*x.batches, func(have []lab.Received) bool {
		return !slices.ContainsFunc(cells, func(c Cell) bool { return x.speaks(c) && refused[c.Route.String()] == "" && len(about(have, c)) == 0 })
	}, cells)
	if err != nil {
		return nil, err
	}
	states := map[string]speaker.PeerRoute{}
	for _, r := range status.Routes {
		states[r.Route.String()] = r.Peers[0]
	}
	out := make([]Result, len(cells))
	for i, c := range cells {
		r := x.result(c)
		switch state := states[c.Route.String()]; {
		case refused[c.Route.String()] != "":
			r.Note = refusedNote + refused[c.Route.String()]
		case state.State != speaker.Sent:
			r.Note = fmt.Sprintf("%s; the router's tool shows as negotiated: %v", state.Reason, x.negotiated)
		default:
			r.Sent = true
			r.judge(about(have, c))
		}
		out[i] = r
	}
	if _, err := x.set(ctx, nil); err != nil {
		return nil, err
	}
	if _, err := x.settle(ctx, session, nil); err != nil {
		return nil, err
	}
	left, err := x.await(ctx, session, 3*x.batches+1, func(have []lab.Received) bool {
		return !slices.ContainsFunc(cells, func(c Cell) bool { return len(about(have, c)) > 0 })
	}, nil)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Withdrawn = out[i].Sent && len(about(left, out[i].cell)) == 0
	}
	return out, nil
}

func (x *runner) speaks(c Cell) bool { return slices.Contains(x.negotiated, c.Table()) }

// settle waits until the speaker has handed everything to BGP.
func (x *runner) settle(ctx context.Context, session func(speaker.Status) error, cells []Cell) (speaker.Status, error) {
	return x.wait(ctx, fmt.Sprintf("%d routes to be sent", len(cells)), func(s speaker.Status) error {
		if err := session(s); err != nil {
			return err
		}
		for _, r := range s.Routes {
			if r.Peers[0].State == speaker.Pending {
				return fmt.Errorf("%s is not", r.Route)
			}
		}
		return nil
	})
}

// await waits until the router shows what is wanted, or until it shows sentinels that were sent later: then it will not.
func (x *runner) await(ctx context.Context, session func(speaker.Status) error, n int, ok func([]lab.Received) bool, cells []Cell) ([]lab.Received, error) {
	sentinels, err := x.sentinels(x.negotiated, 8100+n%64)
	if err != nil {
		return nil, err
	}
	if _, err := x.set(ctx, cells, sentinels...); err != nil {
		return nil, err
	}
	var have []lab.Received
	last := -1
	_, err = x.wait(ctx, x.im.Name+" to show what it was sent", func(s speaker.Status) error {
		if err := session(s); err != nil {
			return err
		}
		if have, err = x.router.Received(ctx); err != nil {
			return err
		}
		for _, w := range sentinels {
			if !slices.ContainsFunc(have, func(r lab.Received) bool { return r.Match.Destination == w.Match.Destination }) {
				return fmt.Errorf("of %d routes it shows, none is %s", len(have), w)
			}
		}
		// Routers work off what they received in queues of their own: only a view that stays is one.
		if ok(have) || len(have) == last {
			return nil
		}
		last = len(have)
		return errors.New("not all is there")
	})
	return have, err
}

// about returns the accounts of a cell.
func about(have []lab.Received, c Cell) (out []lab.Received) {
	for _, r := range have {
		if r.Family == c.Table() && c.holds(r) {
			out = append(out, r)
		}
	}
	return out
}

// judge compares the router's accounts of a cell with what was meant.
func (r *Result) judge(have []lab.Received) {
	if len(have) == 0 {
		r.Note = "the router does not show it"
		return
	}
	r.Accepted = true
	var raw []string
	for _, h := range have {
		raw = append(raw, h.Raw)
	}
	r.raw = strings.Join(raw, "\n")
	if len(have) > 1 {
		r.Note = fmt.Sprintf("the router shows %d routes: %s", len(have), r.raw)
		return
	}
	var why []string
	if err := have[0].Err; err != nil {
		why = append(why, "not understood: "+err.Error())
	} else {
		why = differences(r.cell, have[0])
		r.matches = have[0].Match.Equal(wantedMatch(r.cell)) && !have[0].Unreachable
	}
	if r.ReadBackEqual = len(why) == 0; !r.ReadBackEqual {
		r.Note = strings.Join(why, "; ") + ": " + strings.Join(strings.Fields(r.raw), " ")
	}
}

// differences says in what the router's account is not what was meant.
func differences(c Cell, have lab.Received) (why []string) {
	match, action := wantedMatch(c), onWire(c.Route.Action)
	if !have.Match.Equal(match) {
		why = append(why, fmt.Sprintf("matches %q and not %q", have.Match, match))
	}
	want := wantedPath(c)
	if !c.Internal() {
		have.Path.LocalPref = 0 // the router's own
	}
	if !c.Route.IsBlackhole() {
		have.Path.NextHop = netip.Addr{} // a rule has none, whatever is shown for it
		if have.Unreachable {
			why = append(why, "held invalid")
		}
		if a := onWire(have.Action); a != action {
			shown := "no action"
			if a.Kind != 0 {
				shown = a.String()
			}
			why = append(why, fmt.Sprintf("%s and not %s", shown, action))
		}
	}
	if p := have.Path; p.NextHop != want.NextHop || p.MED != want.MED || p.LocalPref != want.LocalPref ||
		!slices.Equal(p.Communities, want.Communities) || !slices.Equal(p.Large, want.Large) {
		why = append(why, fmt.Sprintf("with %+v and not %+v", have.Path, want))
	}
	return why
}

// wantedMatch is what a router is to show: a blackhole is a prefix.
func wantedMatch(c Cell) route.Match {
	if c.Route.IsBlackhole() {
		return route.Match{Destination: c.Route.Prefix()}
	}
	return c.Route.Match
}

// onWire is what the rule itself says of an action: rates are 32-bit floats (RFC 8955, section 7.1), what is let pass
// without more has no community, and path attributes stand beside it.
func onWire(a route.Action) route.Action {
	a.Rate = uint64(math.Round(float64(float32(a.Rate))))
	a.Attributes = route.Attributes{}
	if a == (route.Action{Kind: route.Accept}) {
		a.Kind = 0
	}
	return a
}
