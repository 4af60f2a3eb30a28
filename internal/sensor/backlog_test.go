package sensor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

func one(w worth, sequence uint64) message {
	if w == worthSamples {
		return message{worth: w, samples: &pb.SampleBatch{Samples: make([]*pb.Sample, 3)}}
	}
	return message{worth: w, report: &pb.Report{Sequence: sequence}}
}

func drainAll(b *backlog) string {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out []string
	for {
		m, err := b.take(ctx)
		if err != nil {
			return strings.Join(out, " ")
		}
		out = append(out, fmt.Sprintf("%d:%d", m.worth, m.report.GetSequence()))
	}
}

func TestBacklogDropsTheLeastWorthFirst(t *testing.T) {
	b := newBacklog(4)
	for i, w := range []worth{worthInterval, worthTrigger, worthSamples, worthHot, worthInterval, worthTrigger, worthTrigger} {
		b.put(one(w, uint64(i+1)))
	}
	expect(t, "what is left", drainAll(b), "3:2 2:4 3:6 3:7")
	reports, samples, waiting := b.losses()
	if reports != 2 || samples != 1 || waiting != 0 {
		t.Errorf("lost %d reports and %d batches, %d wait", reports, samples, waiting)
	}
	for i := range 6 {
		b.put(one(worthTrigger, uint64(i)))
	}
	expect(t, "the oldest trigger goes last of all", drainAll(b), "3:2 3:3 3:4 3:5")
}

func TestBacklogIsBoundedByEntriesToo(t *testing.T) {
	b := newBacklog(1000)
	for i := range 10 {
		m := one(worthInterval, uint64(i))
		m.report.Aggregates = make([]*pb.Aggregate, maxEntries/4)
		b.put(m)
	}
	expect(t, "what is left", drainAll(b), "1:7 1:8 1:9")
	m := one(worthInterval, 1)
	m.report.Aggregates = make([]*pb.Aggregate, 2*maxEntries)
	b.put(m)
	expect(t, "a single one is kept whatever its size", drainAll(b), "1:1")
}

func TestBacklogWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(4)
		got := make(chan message)
		go func() {
			m, _ := b.take(t.Context())
			got <- m
		}()
		time.Sleep(time.Hour)
		b.put(one(worthTrigger, 9))
		if m := <-got; m.report.GetSequence() != 9 {
			t.Errorf("%+v", m)
		}
	})
}
