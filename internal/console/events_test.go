package console_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/console/consoletest"
)

// TestListEventsPages walks through events of which many happened in the same instant, and misses and repeats none.
func TestListEventsPages(t *testing.T) {
	f := consoletest.New()
	f.EventList = nil
	for i := range 250 {
		f.EventList = append(f.EventList, console.Event{Time: consoletest.Now.Add(-time.Duration(i/40) * time.Second), Kind: "started", Message: fmt.Sprint(i)})
	}
	c := serve(t, f, nil, nil)
	seen, pages := map[string]bool{}, 0
	req := &tmv1.ListEventsRequest{PageSize: 30}
	for last := (*timestamppb.Timestamp)(nil); ; pages++ {
		r, err := c.ListEvents(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events {
			if seen[e.Message] {
				t.Fatalf("event %s comes twice", e.Message)
			}
			if last != nil && e.Time.AsTime().After(last.AsTime()) {
				t.Fatalf("event %s is newer than the one before", e.Message)
			}
			seen[e.Message], last = true, e.Time
		}
		if req.PageToken = r.NextPageToken; req.PageToken == "" {
			break
		}
	}
	if len(seen) != 250 || pages != 8 {
		t.Errorf("%d events on %d pages, want 250 on 9", len(seen), pages+1)
	}
}

func TestListEventsRefuses(t *testing.T) {
	c := serve(t, consoletest.New(), nil, nil)
	for name, req := range map[string]*tmv1.ListEventsRequest{
		"page size":          {PageSize: 1001},
		"token":              {PageToken: "x"},
		"an empty thing":     {About: []string{" "}},
		"too many things":    {About: make([]string, 17)},
		"related to nothing": {IncludeRelated: true},
		"year":               {StartTime: timestamppb.New(time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC))},
		"time":               {EndTime: &timestamppb.Timestamp{Nanos: -1}},
		"terminal":           {Requester: "\x1b[2J"},
		"kinds":              {Kinds: make([]string, 65)},
	} {
		if _, err := c.ListEvents(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}
