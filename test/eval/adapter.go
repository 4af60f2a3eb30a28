package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// runner is the system under judgement, as the score card sees it.
type runner struct {
	// run says what the system finds in a scenario.
	run func(ctx context.Context, s scenario.Scenario) ([]incident, error)
	// matches says whether a rule takes the packet.
	matches func(m route.Match, s *traffic.Sample) bool
}

// incident is one attack that was found.
type incident struct {
	target    netip.Prefix
	direction vector.Direction
	vectors   []vector.ID
	// ended is zero when the attack was still going on at the scenario's end.
	onset, decided, ended time.Time
	rules                 []route.Match // the signature
	says                  string        // it in words
	reason, action        string
}
