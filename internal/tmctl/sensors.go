package tmctl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

func (c *cli) sensorsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "sensors [name]",
		Short: "Every sensor the controller has heard of, or all that is known of one",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(cmd.Context(), c, "list sensors", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.ListSensorsResponse, error) {
				return cl.ListSensors(ctx, &tmv1.ListSensorsRequest{})
			})
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return c.print(r, func() error { return c.write(c.sensorsTable(r)) })
			}
			i := slices.IndexFunc(r.Sensors, func(s *tmv1.Sensor) bool { return s.GetHello().GetSensor() == args[0] })
			if i < 0 {
				return failed("find the sensor: %w", fmt.Errorf("this controller has not heard of %q since its start; tmctl sensors lists those it has", args[0]))
			}
			return c.print(r.Sensors[i], func() error { return c.write(c.sensorText(r.Sensors[i])) })
		},
	}
}

func (c *cli) sensorsTable(r *tmv1.ListSensorsResponse) string {
	if len(r.Sensors) == 0 {
		return "No sensor has been heard of since the controller's start.\n"
	}
	var t table
	var notes strings.Builder
	t.row("SENSOR", "STATE", "REPORTED", "DIRECTIVE", "SEEN", "LEAVING", "SLOTS", "LOST", "MISSING", "SAMPLED", "CLOCK", "CPU", "RSS", "MAPS", "INTERFACES", "VERSION")
	for _, s := range r.Sensors {
		h, n := s.GetHello(), s.GetCounters()
		t.row(h.GetSensor(), sensorState(s), c.reported(s), sensorDirective(s), rates(s.PacketsPerSecond, s.BitsPerSecond),
			scaled(s.OutboundPacketsPerSecond, "pps"), fmt.Sprintf("%d/%d", n.GetSlotsUsed(), n.GetSlotsTotal()), sensorLosses(n),
			fmt.Sprint(s.MissingReports), sensorSampling(s), sensorClock(s), percent(s.Cpu), size(n.GetResidentBytes()), size(h.GetMapBytes()),
			sensorInterfaces(s), dash(h.GetVersion()))
		for _, p := range sensorProblems(s) {
			fmt.Fprintf(&notes, "%s: %s\n", clean(h.GetSensor()), clean(p))
		}
	}
	return joinNotes(t.String(), notes.String())
}

// sensorText is all there is to say of one sensor.
func (c *cli) sensorText(s *tmv1.Sensor) string {
	h, n := s.GetHello(), s.GetCounters()
	var t table
	t.row("sensor", fmt.Sprintf("%s %s, up %s", h.GetSensor(), dash(h.GetVersion()), c.ago(h.GetStartTime())))
	t.row("state", fmt.Sprintf("%s, last report %s, from %s", sensorState(s), c.reported(s), dash(s.Address)))
	t.row("interfaces", sensorInterfaces(s))
	t.row("directive", sensorDirective(s))
	t.row("seen", fmt.Sprintf("%s, %s of it leaving", rates(s.PacketsPerSecond, s.BitsPerSecond), scaled(s.OutboundPacketsPerSecond, "pps")))
	t.row("seen in all", fmt.Sprintf("%d packets (%d leaving), %d bytes", n.GetPackets(), n.GetOutboundPackets(), n.GetBytes()))
	t.row("not counted for a target", fmt.Sprintf("%d unprotected, %d leaving from foreign sources, %d not IP; %d malformed",
		n.GetUnprotectedPackets(), n.GetForeignSourcePackets(), n.GetNonIpPackets(), n.GetMalformedPackets()))
	t.row("host slots", fmt.Sprintf("%d of %d used; %d packets counted for networks for want of one", n.GetSlotsUsed(), n.GetSlotsTotal(), n.GetSlotExhaustedPackets()))
	t.row("lost", fmt.Sprintf("%d triggers, %d samples", n.GetLostTriggers(), n.GetLostSamples()))
	t.row("reports", fmt.Sprintf("%d came, %d missing; %d merged, %d dropped by its backlog", s.Reports, s.MissingReports, n.GetMergedReports(), n.GetDroppedReports()))
	t.row("sampled", sensorSampling(s))
	t.row("clock", sensorClock(s))
	t.row("process", fmt.Sprintf("%s of a core (%s so far), %s resident", percent(s.Cpu), duration(time.Duration(n.GetCpuNanoseconds())), size(n.GetResidentBytes())))
	t.row("kernel memory", size(h.GetMapBytes()))
	out := t.String()
	if maps := n.GetMaps(); len(maps) > 0 {
		var m table
		m.row("MAP", "BYTES", "USED", "LOST")
		for _, x := range maps {
			used := "-"
			if x.Total > 0 {
				used = fmt.Sprintf("%d/%d", x.Used, x.Total)
			}
			m.row(x.Name, size(x.Bytes), used, fmt.Sprint(x.Lost))
		}
		out += "\n" + m.String()
	}
	if problems := sensorProblems(s); len(problems) > 0 {
		out += "\nNot whole:\n"
		for _, p := range problems {
			out += "  " + clean(p) + "\n"
		}
	}
	return out
}

func sensorState(s *tmv1.Sensor) string {
	switch {
	case !s.Connected:
		return "gone"
	case s.Stale:
		return "stale"
	}
	return "ok"
}

func (c *cli) reported(s *tmv1.Sensor) string {
	if s.LastReportTime == nil {
		return "never"
	}
	return c.past(s.LastReportTime)
}

func sensorDirective(s *tmv1.Sensor) string {
	if s.GetDirective().GetRevision() == 0 {
		return "none"
	}
	return fmt.Sprintf("%d.%d", s.Directive.Term, s.Directive.Revision)
}

// sensorLosses sums up what was lost since the counters began.
func sensorLosses(n *tmv1.SensorCounters) string {
	var parts []string
	for _, l := range []struct {
		name string
		n    uint64
	}{
		{"triggers", n.GetLostTriggers()},
		{"samples", n.GetLostSamples()},
		{"slots", n.GetSlotExhaustedPackets()},
		{"dropped", n.GetDroppedReports()},
		{"merged", n.GetMergedReports()},
	} {
		if l.n > 0 {
			parts = append(parts, l.name+":"+scaled(float64(l.n), ""))
		}
	}
	return dash(strings.Join(parts, ","))
}

func sensorSampling(s *tmv1.Sensor) string {
	one := func(n uint32) string {
		if n == 0 {
			return "none"
		}
		return fmt.Sprintf("1:%d", n)
	}
	actual, asked := one(s.GetCounters().GetSampleOneIn()), one(s.SampleOneInAsked)
	if actual == asked {
		return actual
	}
	return actual + " (asked " + asked + ")"
}

func sensorClock(s *tmv1.Sensor) string {
	if s.ClockOffset == nil {
		return "-"
	}
	return duration(s.ClockOffset.AsDuration()) + " ±" + duration(s.ClockDelay.AsDuration()/2)
}

func sensorInterfaces(s *tmv1.Sensor) string {
	list := s.GetHello().GetInterfaces()
	// A sensor older than its maps' report does not say how it is attached.
	says := len(s.GetCounters().GetMaps()) > 0 || slices.ContainsFunc(list, func(i *tmv1.Interface) bool {
		return i.Attachment != tmv1.Interface_ATTACHMENT_UNSPECIFIED
	})
	var out []string
	for _, i := range list {
		var how []string
		if i.Mode == tmv1.Interface_MODE_MIRROR {
			how = append(how, "mirror")
		}
		switch {
		case i.Attachment != tmv1.Interface_ATTACHMENT_UNSPECIFIED:
			how = append(how, word(i.Attachment.String(), "ATTACHMENT_"))
		case says:
			how = append(how, "not attached")
		}
		if i.Outbound {
			how = append(how, "both ways")
		}
		if i.Down {
			how = append(how, "down")
		}
		name := i.Name
		if len(how) > 0 {
			name += " (" + strings.Join(how, ", ") + ")"
		}
		out = append(out, name)
	}
	return dash(strings.Join(out, " "))
}

func sensorProblems(s *tmv1.Sensor) []string {
	if s.DirectiveError != "" && !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, s.DirectiveError) }) {
		return append(slices.Clone(s.Problems), "it refused its newest directive: "+s.DirectiveError)
	}
	return s.Problems
}

// percent writes a share of one core.
func percent(v float64) string {
	if v <= 0 {
		return "-"
	}
	return trim(v*100) + "%"
}

// size writes bytes with a binary prefix.
func size(n uint64) string {
	switch {
	case n == 0:
		return "-"
	case n >= 1<<30:
		return trim(float64(n)/(1<<30)) + "GiB"
	case n >= 1<<20:
		return trim(float64(n)/(1<<20)) + "MiB"
	case n >= 1<<10:
		return trim(float64(n)/(1<<10)) + "KiB"
	}
	return fmt.Sprint(n) + "B"
}
