//go:build !replay

package main

import (
	"context"
	"errors"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// engine stands in until internal/replay has its own; see engine.go.
func engine(*policy.Policy) runner {
	return runner{
		run: func(context.Context, scenario.Scenario) ([]incident, error) {
			return nil, errors.New("built without the replay engine: build with -tags replay")
		},
		matches: func(route.Match, *traffic.Sample) bool { return false },
	}
}
