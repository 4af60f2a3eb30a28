package replay

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// Options say how packets are judged.
type Options struct {
	Policy *policy.Policy // nil means the default policy
	// Targets are the protected prefixes: packets to them are inbound, packets from them outbound. Without any, every
	// address is one.
	Targets     []netip.Prefix
	Decapsulate classify.Tunnels
	Ports       classify.Ports // of reflection vectors; nil means those of the vector table
	Signature   signature.Options
	// Safety judges the routes; the zero value means safety.Defaults with Targets, or each target alone, as own prefixes.
	Safety *safety.Limits
	// MaxTargets is the largest number of addresses counted at a time; 0 means 65,536.
	MaxTargets int
}

// Result is what would have happened.
type Result struct {
	Packets   int // read; of a journal: samples
	Reports   int // of a journal
	Malformed int // of them with headers that are cut short or contradict themselves
	NotIP     int
	Refused   uint64 // packets not counted because there were too many targets
	First     time.Time
	Duration  time.Duration // from the first packet to the last
	Incidents []Incident    // in order of decision
}

// Incident is one attack as the system would have seen and answered it.
type Incident struct {
	detect.Incident
	// Rules are the signature: what a packet of the attack matches; several only when sources tell.
	Rules []route.Match
	Says  string // the signature in words
	// PredictedCoverage and PredictedCollateral are shares, 0 to 1, as known at the time: of the attack's packets, and of
	// the target's normal ones. Confidence in the latter is 0 when nothing was known of them.
	PredictedCoverage, PredictedCollateral, Confidence float64
	// Coverage is the share of the attack's packets that the rules match, Collateral that of the target's other packets in the same
	// direction over the whole replay. Where packets carry labels these say what the attack is; otherwise its packets are those
	// of its vectors from onset to end, so that collateral in the same vector is not seen.
	Coverage, Collateral float64
	AttackPackets        uint64
	OtherPackets         uint64
	// Action is what policy and safety kernel make of it: an action as in a route, "observe", or "refused"; Why says so.
	// Of a ladder Action names all steps.
	Action, Why string
	// Routes are what would be announced: by the first step that announces something.
	Routes []route.Route

	signed        time.Time // when Rules were made
	signedVectors int       // of how many vectors
}

// settle is how long after its onset an attack's signature is made: by then there are samples of it.
const settle = 500 * time.Millisecond

// It is looked at again so often, and made anew when it misses a twentieth of at least so many samples.
const (
	again  = time.Second
	fewest = 50
)

// Run replays the packets that open yields, twice: first as the system sees them, then to measure what its signatures
// match. The error says which packet could not be read; what came before is in the result.
func Run(ctx context.Context, o Options, open func() (Source, error)) (*Result, error) {
	if o.Policy == nil {
		o.Policy = policy.Default()
	}
	if o.Ports == nil {
		o.Ports = classify.DefaultPorts()
	}
	o.MaxTargets = cmp.Or(o.MaxTargets, 1<<16)
	e := newEngine(o, false)
	broken := each(ctx, open, e.packet)
	e.finish()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(e.result.Incidents) > 0 {
		m := newMeasure(o, e.result.Incidents)
		_ = each(ctx, open, m.packet) // breaks where it broke before
		m.finish()
	}
	return &e.result, broken
}

func each(ctx context.Context, open func() (Source, error), do func(Packet)) error {
	s, err := open()
	if err != nil {
		return err
	}
	defer Close(s)
	for n := 0; ; n++ {
		if n&1023 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		p, err := s.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		do(p)
	}
}
