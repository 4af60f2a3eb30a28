package ingest

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// exchangeWith asks a clock that is off by offset; the ways there and back take out and home, the sensor needs work.
func exchangeWith(t *testing.T, c *clock, now time.Time, offset, out, work, home time.Duration) time.Time {
	t.Helper()
	p := c.probe(now)
	received := now.Add(out).Add(offset)
	end := now.Add(out + work + home)
	if _, err := c.echo(end, &pb.ClockEcho{
		ProbeTime: p.GetSendTime(), ReceiveTime: timestamppb.New(received), SendTime: timestamppb.New(received.Add(work)),
	}); err != nil {
		t.Fatal(err)
	}
	return end
}

// The true offset lies within half the delay, whatever the network does, and the clock being set shows at once.
func TestClockIsWithinHalfItsDelay(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		var c clock
		now := time.Unix(1_700_000_000, 0)
		offset := time.Duration(rng.Int64N(int64(20*time.Hour))) - 10*time.Hour
		for i := range 40 {
			if i%20 == 19 {
				offset += time.Duration(rng.Int64N(int64(time.Hour))) + 11*time.Second // more than the delays can hide
			}
			wait := func() time.Duration { return time.Duration(rng.ExpFloat64() * float64(10*time.Millisecond)) }
			if rng.IntN(5) == 0 {
				wait = func() time.Duration { return time.Duration(rng.Int64N(int64(5 * time.Second))) }
			}
			now = exchangeWith(t, &c, now, offset, wait(), wait(), wait())
			x, ok := c.best(now)
			if !ok || (x.offset-offset).Abs() > x.delay/2+1 {
				t.Fatalf("offset %s, measured %s with a delay of %s (%v)", offset, x.offset, x.delay, ok)
			}
			now = now.Add(probeInterval)
		}
	}
}

func TestClockTakesTheBestOfTheLast(t *testing.T) {
	var c clock
	now := time.Unix(1_700_000_000, 0)
	ms := time.Millisecond
	now = exchangeWith(t, &c, now, time.Second, ms, 0, ms)
	for range exchanges - 1 {
		now = exchangeWith(t, &c, now, time.Second, 900*ms, 0, 100*ms)
	}
	if x, _ := c.best(now); x.delay != 2*ms || x.offset != time.Second {
		t.Errorf("best %+v", x)
	}
	now = exchangeWith(t, &c, now, time.Second, 900*ms, 0, 100*ms)
	if x, _ := c.best(now); x.delay != time.Second {
		t.Errorf("after %d more the first still counts: %+v", exchanges, x)
	}
	if x, ok := c.best(now.Add(clockKnown + 1)); ok {
		t.Errorf("an answer of %s ago stands: %+v", clockKnown, x)
	}
}

func TestClockTurnsOnce(t *testing.T) {
	var c clock
	now := time.Unix(1_700_000_000, 0)
	var turns []bool
	for _, offset := range []time.Duration{0, 900 * time.Millisecond, 2 * time.Second, 3 * time.Second, 900 * time.Millisecond, -100 * time.Millisecond, 0, -2 * time.Second} {
		now = exchangeWith(t, &c, now, offset, 0, 0, 0)
		if _, turned := c.turns(now); turned {
			turns = append(turns, c.wrong)
		}
	}
	if len(turns) != 3 || !turns[0] || turns[1] || !turns[2] {
		t.Errorf("turned to wrong: %v, want true false true", turns)
	}
}

func TestClockRefusesWhatCannotBe(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	stamp := timestamppb.New
	for name, e := range map[string]*pb.ClockEcho{
		"nothing":            {},
		"another question":   {ProbeTime: stamp(now.Add(1)), ReceiveTime: stamp(now), SendTime: stamp(now)},
		"no receive time":    {ProbeTime: stamp(now), SendTime: stamp(now)},
		"no send time":       {ProbeTime: stamp(now), ReceiveTime: stamp(now)},
		"impossible time":    {ProbeTime: stamp(now), ReceiveTime: &timestamppb.Timestamp{Nanos: -5}, SendTime: stamp(now)},
		"answered before":    {ProbeTime: stamp(now), ReceiveTime: stamp(now), SendTime: stamp(now.Add(-1))},
		"took all the time":  {ProbeTime: stamp(now), ReceiveTime: stamp(now), SendTime: stamp(now.Add(2 * time.Second))},
		"took ten millennia": {ProbeTime: stamp(now), ReceiveTime: &timestamppb.Timestamp{Seconds: -62135596800}, SendTime: &timestamppb.Timestamp{Seconds: 253402300799}},
	} {
		var c clock
		c.probe(now)
		if x, err := c.echo(now.Add(time.Second), e); err == nil || len(c.kept) > 0 {
			t.Errorf("%s passed: %+v", name, x)
		}
	}
	var c clock
	exchangeWith(t, &c, now, 0, 0, 0, 0)
	if _, err := c.echo(now, &pb.ClockEcho{ProbeTime: stamp(now), ReceiveTime: stamp(now), SendTime: stamp(now)}); err == nil {
		t.Error("a second answer to one question passed")
	}
}

func FuzzClockEcho(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	good, _ := proto.Marshal(&pb.ClockEcho{ProbeTime: timestamppb.New(now), ReceiveTime: timestamppb.New(now), SendTime: timestamppb.New(now)})
	f.Add(good, int64(time.Millisecond))
	f.Fuzz(func(t *testing.T, wire []byte, took int64) {
		var e pb.ClockEcho
		if proto.Unmarshal(wire, &e) != nil || took < 0 {
			t.Skip()
		}
		var c clock
		c.probe(now)
		end := now.Add(time.Duration(took))
		x, err := c.echo(end, &e)
		if err != nil {
			if len(c.kept) > 0 || err.Error() == "" {
				t.Fatalf("refused (%v) and kept %+v", err, c.kept)
			}
			return
		}
		if x.delay < 0 || x.delay > time.Duration(took) || x.offset == math.MinInt64 {
			t.Fatalf("%+v of %s", x, time.Duration(took))
		}
	})
}

// A stream asks at once; what the sensor answers is shown and corrects the time of its triggers; nonsense does no harm.
func TestClockOfAStream(t *testing.T) {
	f := start(t, Options{})
	s := f.connect(t, "rack1")
	m, err := s.Recv()
	if err != nil || m.GetClockProbe().GetSendTime() == nil {
		t.Fatalf("first came %v, %v", m, err)
	}
	if st := f.Sensors(time.Now()); st[0].Clock != nil {
		t.Errorf("clock %+v before an answer", st[0].Clock)
	}
	ahead := time.Now().Add(time.Hour)
	lie := &pb.ClockEcho{ProbeTime: timestamppb.New(ahead), ReceiveTime: timestamppb.New(ahead), SendTime: timestamppb.New(ahead)}
	send(t, s, &pb.ConnectRequest{Message: &pb.ConnectRequest_ClockEcho{ClockEcho: lie}})
	echo := &pb.ClockEcho{ProbeTime: m.GetClockProbe().GetSendTime(), ReceiveTime: timestamppb.New(ahead), SendTime: timestamppb.New(ahead)}
	send(t, s, &pb.ConnectRequest{Message: &pb.ConnectRequest_ClockEcho{ClockEcho: echo}})
	r := good()
	before := time.Now()
	r.TriggerTime = timestamppb.New(before.Add(time.Hour))
	send(t, s, wrap(r))
	d := <-f.delivered
	c := f.Sensors(time.Now())[0].Clock
	if c == nil || (c.Offset-time.Hour).Abs() > time.Minute || c.Delay < 0 || c.Delay > time.Minute {
		t.Fatalf("clock %+v, want an hour ahead", c)
	}
	if off := d.Triggered.Sub(before).Abs(); off > c.Delay+time.Since(before) {
		t.Errorf("the trigger is off by %s", off)
	}
	if n := testutil.ToFloat64(f.metrics.echoes); n != 1 {
		t.Errorf("%v echoes ignored, want 1", n)
	}
	if n := testutil.CollectAndCount(f.metrics.offset); n != 1 {
		t.Errorf("%d offset histograms", n)
	}
}
