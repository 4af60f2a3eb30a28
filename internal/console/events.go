package console

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// Bounds of a question about events.
const (
	maxAbout     = 16
	maxAboutText = 4096 // the text of a route
	maxKinds     = 64
	sameInstant  = 1000 // events of one nanosecond, which a page may break
)

// ListEvents returns a page of what was recorded, newest first.
func (s *service) ListEvents(ctx context.Context, req *tmv1.ListEventsRequest) (*tmv1.ListEventsResponse, error) {
	var c check
	q := EventQuery{
		Since: c.time("start_time", req.GetStartTime()), Until: c.time("end_time", req.GetEndTime()), Related: req.GetIncludeRelated(),
		Kinds: req.GetKinds(), Requester: c.text("requester", req.GetRequester(), maxRequester), About: req.GetAbout(),
	}
	if len(q.About) > maxAbout {
		c.add("about", "names %d things: at most %d are taken", len(q.About), maxAbout)
	}
	for i, a := range q.About {
		if a = c.text(fmt.Sprintf("about[%d]", i), a, maxAboutText); strings.TrimSpace(a) == "" {
			c.add(fmt.Sprintf("about[%d]", i), "is empty: name an incident, a mitigation, a router, an address or a prefix")
		}
	}
	if len(q.Kinds) > maxKinds {
		c.add("kinds", "names %d kinds: at most %d are taken", len(q.Kinds), maxKinds)
	}
	if q.Related && len(q.About) == 0 {
		c.add("include_related", "needs something in about")
	}
	size, at := req.GetPageSize(), q.Until
	if token := req.GetPageToken(); token != "" {
		p, ok := parseToken(token)
		if !ok {
			c.add("page_token", "was not returned by this method: send the next_page_token of the answer before as it is")
		}
		at = p.time.Add(1) // that instant is not over yet
	}
	if size < 0 || size > maxPage {
		c.add("page_size", "%d is outside 1 to %d: 0 means %d", size, maxPage, defaultPage)
	}
	if err := c.err(); err != nil {
		return nil, s.toStatus(ctx, "ListEvents", err)
	}
	if q.Limit = int(size); q.Limit == 0 {
		q.Limit = defaultPage
	}
	q.Limit += sameInstant
	q.Until = at
	found, err := s.system.Events(ctx, q)
	if err != nil {
		return nil, s.toStatus(ctx, "ListEvents", err)
	}
	events, next, err := page(found.Events, eventPosition, size, req.GetPageToken())
	if err != nil {
		return nil, s.toStatus(ctx, "ListEvents", err)
	}
	return &tmv1.ListEventsResponse{Events: mapSlice(events, recordedProto), NextPageToken: next, Incomplete: found.Incomplete}, nil
}

// eventPosition orders events of the same instant by what they say.
func eventPosition(e Event) position {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s", e.Controller, e.Kind, e.Message)
	return position{e.Time, fmt.Sprintf("%016x", h.Sum64())}
}

func recordedProto(e Event) *tmv1.Event {
	return &tmv1.Event{Time: timeProto(e.Time), Kind: e.Kind, Message: e.Message, Attributes: e.Attributes, Controller: e.Controller}
}

// time checks a time of a request; none is the zero time.
func (c *check) time(field string, t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	if err := t.CheckValid(); err != nil {
		c.add(field, "%v", err)
		return time.Time{}
	}
	at := t.AsTime()
	if at.Year() < 1970 || at.Year() > 2200 { // of nanoseconds, which are what events are ordered by
		c.add(field, "%s is outside the years 1970 to 2200", at.Format(time.RFC3339))
	}
	return at
}
