package sensor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// loop owns the meter. It runs in the goroutine of Run, so that interfaces that appear later are looked for in the
// same network namespace.
func (a *agent) loop(ctx context.Context, directives <-chan *pb.Directive, events <-chan trigger) error {
	now := time.Now()
	nextScan, nextReport, nextHot := now, now.Add(a.reportInterval()), now
	if a.meter.since.Before(a.started) {
		nextReport = now // what was counted while no process ran has waited long enough, see longestGap
	}
	a.exert()
	quick := 0 // how many of the next hot reports come sooner
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			a.finish()
			return nil
		case d := <-directives:
			a.directive(d)
			a.exert()
			nextReport = earlier(nextReport, time.Now().Add(a.reportInterval()))
		case t := <-events:
			a.metrics.raised.Inc()
			now := time.Now()
			r, err := a.meter.trigger(t, now)
			a.note(err)
			if r != nil {
				a.exert()
				quick = quickReports
				if at := now.Add(a.hotInterval(quick)); len(a.meter.hot) == 1 || at.Before(nextHot) {
					nextHot = at
				}
				a.send(r, worthTrigger, t.raised.UnixNano())
			}
			a.metrics.hot.Set(float64(len(a.meter.hot)))
		case <-a.doors.changed:
			a.doors.next = time.Now()
		case <-timer.C:
		}
		now := time.Now()
		a.o.Alive(now)
		if len(a.meter.hot) > 0 && !now.Before(nextHot) {
			reports, err := a.meter.hotReports(now)
			a.note(err)
			for _, r := range reports {
				a.send(r, worthHot, 0)
			}
			a.drain()
			a.metrics.hot.Set(float64(len(a.meter.hot)))
			a.exert()
			quick = max(quick-1, 0)
			nextHot = now.Add(a.hotInterval(quick))
		}
		due := !now.Before(nextReport)
		if due || !now.Before(nextScan) {
			if err := a.meter.scan(now); err != nil {
				a.note(err)
			} else if a.broken {
				a.broken = false
				a.o.Ready("maps", "")
			}
			a.metrics.scan.Observe(time.Since(now).Seconds())
			a.restrain(now)
			a.o.Status(a.status())
			a.note(a.count())
			a.drain()
			nextScan = now.Add(min(scanAtLeast, a.reportInterval()))
		}
		if due {
			a.report(now)
			nextReport = now.Add(a.reportInterval())
			nextScan = earlier(nextScan, nextReport)
		}
		wake := earlier(nextScan, nextReport)
		if len(a.meter.hot) > 0 {
			wake = earlier(wake, nextHot)
		}
		if !now.Before(a.doors.next) {
			a.doors.look(now)
		}
		wake = earlier(wake, a.doors.next)
		timer.Reset(time.Until(wake))
	}
}

// The first hot reports after a trigger come window by window, a little sooner so that two of them are there before the
// second window ends: a trigger is a lower bound, and they tell the controller at once how much more it is.
const quickReports = 3

// quickInterval is the time between them.
func quickInterval(window time.Duration) time.Duration { return window * 7 / 8 }

// hotInterval is the time to the next hot report, of which so many are to be quick; no report is quicker than asked for
// while the sensor restrains itself.
func (a *agent) hotInterval(quick int) time.Duration {
	hot := a.restraint.effort.hot
	if d := a.meter.now; quick == 0 || d == nil || hot > d.hot {
		return hot
	}
	return min(hot, quickInterval(a.meter.window))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (a *agent) reportInterval() time.Duration {
	if a.meter.now == nil {
		return time.Second
	}
	return a.meter.now.report
}

// note logs an error of the kernel's maps when it begins, and counts each.
func (a *agent) note(err error) {
	if err == nil {
		return
	}
	a.metrics.errors.Inc()
	if !a.broken {
		a.broken = true
		a.o.Log.Error("counters cannot be read or written; the rest goes on", "err", err)
		a.o.Ready("maps", err.Error())
	}
}

func (a *agent) count() error {
	c, st, err := a.meter.counters()
	if err != nil {
		return err
	}
	c.SampleOneIn, c.CpuNanoseconds, c.ResidentBytes = a.restraint.effort.sampleOneIn, uint64(processTime()), residentBytes()
	uses, err := a.kernel.Uses(&st)
	if err != nil {
		return err
	}
	c.Maps, c.Interfaces = mapUses(a.memory, uses), a.doors.interfaces()
	a.metrics.counters.Store(c)
	a.metrics.stats.Store(&st)
	a.metrics.unprofiled.Store(a.meter.unprofiled)
	a.metrics.unsketched.Store(a.meter.unsketched)
	a.metrics.sketches.Set(float64(bpf.Sketches - len(a.meter.sketches)))
	a.metrics.profiles.Set(float64(len(a.meter.profiles.of)))
	return nil
}

// mapUses says how full the kernel's maps are, as far as that is counted, and what found no room in them.
func mapUses(memory []bpf.MapMemory, uses map[string]bpf.Use) []*pb.MapUse {
	out := make([]*pb.MapUse, 0, len(memory))
	for _, m := range memory {
		u := uses[m.Name]
		out = append(out, &pb.MapUse{Name: m.Name, Bytes: m.Bytes, Used: u.Used, Total: u.Total, Lost: u.Lost})
	}
	return out
}

// send gives a report to every controller's backlog.
func (a *agent) send(r *pb.Report, w worth, raised int64) {
	a.sequence++
	r.Sequence = a.sequence
	a.metrics.reported.WithLabelValues(map[worth]string{worthTrigger: "trigger", worthHot: "hot", worthInterval: "interval"}[w]).Inc()
	for _, b := range a.backlogs {
		b.put(message{worth: w, report: r, ktime: raised})
	}
}

// directive follows a directive that is newer than the one followed, from whichever controller.
func (a *agent) directive(d *pb.Directive) {
	if err := a.follow(d); err != nil {
		a.metrics.refused.Inc()
		a.o.Log.Error("directive refused; the one before stays", "version", version{d.GetVersion().GetTerm(), d.GetVersion().GetRevision()}, "err", err)
		return
	}
}

func (a *agent) follow(p *pb.Directive) error {
	v := version{p.GetVersion().GetTerm(), p.GetVersion().GetRevision()}
	if now := a.meter.now; now != nil && !v.newer(now.version) {
		a.metrics.ignored.Inc()
		return nil
	}
	d, err := parseDirective(p)
	if err == nil {
		err = a.meter.direct(d, time.Now())
	}
	if err != nil {
		a.meter.directErr = fmt.Sprintf("directive %s: %v", v, err)
		return err
	}
	a.meter.directErr = ""
	a.follows.Store(&v)
	a.metrics.term.Set(float64(v.term))
	a.metrics.revision.Set(float64(v.revision))
	a.o.Ready("directive", "")
	a.o.Log.Info("directive followed", "version", v, "prefixes", len(d.protected), "sample_one_in", d.sampleOneIn,
		"report_interval", d.report, "hot_interval", d.hot)
	if err := saveState(a.o.StateFile, p); err != nil {
		a.o.Log.Warn("a restarted sensor will have to wait for a controller", "err", err)
	}
	return nil
}

// readTriggers hands on what the kernel raises.
func (a *agent) readTriggers(ctx context.Context, events chan<- trigger) error {
	var record ringbuf.Record
	for {
		if err := a.triggers.ReadInto(&record); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read triggers: %w", err)
		}
		e, err := bpf.DecodeTrigger(record.RawSample)
		if err != nil {
			return err
		}
		if e.Ktime < a.born {
			continue // left in a pinned ring; what still holds is raised again in the next window
		}
		raised := wall(e.Ktime)
		t := trigger{
			slot: e.Slot, window: e.Window, column: bpf.ColumnOf(vector.Direction(e.Direction), vector.ID(e.Vector)), packets: uint64(e.Packets), bytes: e.Bytes,
			addr: bpf.Address(uint32(e.Family), e.Address), raised: raised,
			start: raised.Add(-time.Duration(e.Age) * a.kernel.Tick),
		}
		select {
		case events <- t:
		case <-ctx.Done():
			return nil
		}
	}
}

// drain sends the packets sampled since the last time.
func (a *agent) drain() {
	if a.samples.AvailableBytes() == 0 {
		return
	}
	var record ringbuf.Record
	var b *pb.SampleBatch
	flush := func() {
		if b != nil {
			for _, q := range a.backlogs {
				q.put(message{worth: worthSamples, samples: b})
			}
			b = nil
		}
	}
	offset := monotonicOffset()
	// Bounded: under a flood the ring fills as fast as it is read.
	for range sampleRing / 128 {
		if err := a.samples.ReadInto(&record); err != nil {
			break
		}
		s, err := bpf.DecodeSample(record.RawSample)
		if err != nil {
			a.note(err)
			continue
		}
		if b == nil {
			b = &pb.SampleBatch{}
		}
		b.Samples = append(b.Samples, &pb.Sample{
			Time: timestamppb.New(time.Unix(0, int64(s.Ktime)+offset)), Weight: s.Weight, Vector: uint32(s.Vector),
			Direction: directionProto(s.Direction), Length: s.Length, Header: append([]byte(nil), s.Header...),
		})
		a.meter.profiles.add(s)
		if len(b.Samples) == batch {
			flush()
		}
	}
	flush()
}

// wall turns the kernel's monotonic time into wall-clock time.
func wall(ktime uint64) time.Time { return time.Unix(0, int64(ktime)+monotonicOffset()) }

func monotonicOffset() int64 { return time.Now().UnixNano() - int64(ktime()) }

// ktime is the kernel's monotonic time, which no one sets.
func ktime() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot fail for this clock
	}
	return uint64(ts.Nano())
}
