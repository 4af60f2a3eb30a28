package ingest

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

const (
	// probeInterval is the time between two questions about a sensor's clock, give or take a fifth of it.
	probeInterval = 10 * time.Second
	// exchanges is how many answers are kept; the one with the least delay counts (RFC 5905, section 10).
	exchanges = 8
	// clockKnown is how long the newest answer stands.
	clockKnown = 2 * time.Minute
	// drift is how fast two clocks may part without one having been set: RFC 5905's bound of 500 PPM for each.
	drift = 1e-3

	clockWrong = time.Second            // from here on a sensor's clock is logged as wrong,
	clockRight = 500 * time.Millisecond // and from here down as right again
)

// clock measures how far a sensor's clock is from ours by asking for it (RFC 5905, section 8). What a sensor answers is
// used for what is shown and for measuring latency, never for a decision.
type clock struct {
	asked time.Time // when the question was sent that waits for its answer; zero when none does
	kept  []exchange
	wrong bool // logged as wrong
}

// exchange is one question and its answer. The offset, theirs minus ours, is wrong by half the delay at most.
type exchange struct {
	at            time.Time
	offset, delay time.Duration
}

// probe returns the question to send now. An answer to the one before is not taken any more.
func (c *clock) probe(now time.Time) *pb.ClockProbe {
	c.asked = now
	return &pb.ClockProbe{SendTime: timestamppb.New(now)}
}

// echo takes an answer that arrived now. An error says that it cannot be one to the question.
func (c *clock) echo(now time.Time, e *pb.ClockEcho) (exchange, error) {
	asked := c.asked
	if asked.IsZero() || e.GetProbeTime() == nil || e.GetProbeTime().CheckValid() != nil || !e.GetProbeTime().AsTime().Equal(asked) {
		return exchange{}, errors.New("nobody asked that question, or it has been answered")
	}
	if e.GetReceiveTime() == nil || e.GetSendTime() == nil || e.GetReceiveTime().CheckValid() != nil || e.GetSendTime().CheckValid() != nil {
		return exchange{}, errors.New("a time is missing or out of range")
	}
	c.asked = time.Time{}
	received, sent := e.GetReceiveTime().AsTime(), e.GetSendTime().AsTime()
	// Halves first: the sum of the largest differences does not fit.
	x := exchange{at: now, offset: received.Sub(asked)/2 + sent.Sub(now)/2, delay: now.Sub(asked) - sent.Sub(received)}
	if sent.Before(received) || x.delay < 0 {
		return exchange{}, fmt.Errorf("it says to have taken %s of the %s there and back", sent.Sub(received), now.Sub(asked))
	}
	// An answer that contradicts those before, beyond what delays and drift explain, is from after the clock was set.
	for i := range c.kept {
		k := &c.kept[i]
		if (x.offset - k.offset).Abs() > (x.delay+k.delay)/2+time.Duration(drift*float64(now.Sub(k.at))) {
			c.kept = c.kept[:0]
			break
		}
	}
	if len(c.kept) == exchanges {
		c.kept = append(c.kept[:0], c.kept[1:]...)
	}
	c.kept = append(c.kept, x)
	return x, nil
}

// best returns the exchange that says most; ok is false while none is known.
func (c *clock) best(now time.Time) (x exchange, ok bool) {
	if len(c.kept) == 0 || now.Sub(c.kept[len(c.kept)-1].at) > clockKnown {
		return exchange{}, false
	}
	x = c.kept[0]
	for _, k := range c.kept {
		if k.delay <= x.delay {
			x = k
		}
	}
	return x, true
}

// turns reports whether the clock has become wrong or right since it was last asked.
func (c *clock) turns(now time.Time) (x exchange, turned bool) {
	x, ok := c.best(now)
	if !ok {
		return x, false
	}
	if wrong := x.offset.Abs() > clockWrong; wrong && !c.wrong || c.wrong && x.offset.Abs() <= clockRight {
		c.wrong = !c.wrong
		return x, true
	}
	return x, false
}
