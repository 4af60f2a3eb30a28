package console_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/console/consoletest"
)

func TestWatchSendsEventsInOrder(t *testing.T) {
	f := consoletest.New()
	c := serve(t, f, nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := c.WatchEvents(ctx, &tmv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Header(); err != nil { // from here on nothing is missed
		t.Fatal(err)
	}
	for i := range 3 {
		f.Emit(console.Event{Time: consoletest.Now, Kind: "incident_onset", Message: fmt.Sprint(i), Attributes: map[string]string{"incident": "i-1"}})
	}
	for i := range 3 {
		e, err := w.Recv()
		if err != nil || e.Message != fmt.Sprint(i) || e.Lost != 0 || e.Attributes["incident"] != "i-1" || !e.Time.AsTime().Equal(consoletest.Now) {
			t.Fatalf("event %d: %v %v", i, e, err)
		}
	}
	cancel()
	if _, err := w.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after cancel: %v", err)
	}
}

// A reader that takes nothing until far more was sent than fits anywhere loses events, and what it is told adds up.
func TestSlowWatcherIsToldWhatItLost(t *testing.T) {
	f := consoletest.New()
	reg := prometheus.NewPedanticRegistry()
	c := serve(t, f, reg, nil)
	w, err := c.WatchEvents(t.Context(), &tmv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Header(); err != nil {
		t.Fatal(err)
	}
	const n = 20_000
	text := string(make([]byte, 500))
	for i := range n {
		f.Emit(console.Event{Time: consoletest.Now, Kind: "route_sent", Message: text, Attributes: map[string]string{"n": fmt.Sprint(i)}})
	}
	sent, lost, last := 0, 0, -1
	for sent+lost < n {
		e, err := w.Recv()
		if err != nil {
			t.Fatalf("after %d sent and %d lost: %v", sent, lost, err)
		}
		lost += int(e.Lost)
		if e.Kind == console.KindEventsLost {
			last = sent + lost - 1
			continue
		}
		sent++
		var i int
		fmt.Sscan(e.Attributes["n"], &i)
		if i != last+1+int(e.Lost) {
			t.Fatalf("event %d after event %d says that %d were lost between them", i, last, e.Lost)
		}
		last = i
	}
	if lost == 0 || sent == 0 || sent+lost != n {
		t.Errorf("%d sent and %d lost of %d", sent, lost, n)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families {
		switch m.GetName() {
		case "trafficmonitor_console_events_lost_total":
			if got := m.Metric[0].Counter.GetValue(); int(got) != lost {
				t.Errorf("metric counts %v lost, the reader was told %d", got, lost)
			}
		case "trafficmonitor_console_watchers":
			if got := m.Metric[0].Gauge.GetValue(); got != 1 {
				t.Errorf("metric shows %v watchers, want 1", got)
			}
		}
	}
}

func TestWatcherThatLeavesIsForgotten(t *testing.T) {
	f := consoletest.New()
	c := serve(t, f, nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := c.WatchEvents(ctx, &tmv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Header(); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-f.Unsubscribed():
	case <-time.After(10 * time.Second):
		t.Fatal("the subscription of a reader that left is still there")
	}
}
