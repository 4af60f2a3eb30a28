package main

import (
	"context"

	"github.com/amooglesoft/trafficmonitor/internal/replay"
	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// engine runs scenarios through the replay engine.
func engine(p *policy.Policy) runner {
	return runner{matches: signature.Matches, run: func(ctx context.Context, s scenario.Scenario) ([]incident, error) {
		o := replay.Options{Policy: p, Targets: s.Targets}
		result, err := replay.Run(ctx, o, func() (replay.Source, error) { return s.Source(), nil })
		if err != nil {
			return nil, err
		}
		found := make([]incident, 0, len(result.Incidents))
		for _, i := range result.Incidents {
			x := incident{
				target: i.Target, direction: i.Direction, onset: i.Onset, decided: i.Decided, ended: i.Ended,
				rules: i.Rules, says: i.Says, reason: i.Reason, action: i.Action,
			}
			for _, v := range i.Vectors {
				x.vectors = append(x.vectors, v.Vector)
			}
			found = append(found, x)
		}
		return found, nil
	}}
}
