package detect

import (
	"fmt"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func fmtNormal(before string, pps, bps float64) string {
	return fmt.Sprintf("%s: normal are %.0f packets/s and %.0f bit/s", before, pps, bps)
}

func fmtAnswers(op vector.Opposite, o traffic.Observation) string {
	if op.Asked {
		return fmt.Sprintf(" for what the target did not ask for: it sent %.0f packets/s", o.AnswersPPS)
	}
	return fmt.Sprintf(" for what the target does not answer: it sent %.0f packets/s", o.AnswersPPS)
}

func fmtShare(o traffic.Observation, l Limits) string {
	return fmt.Sprintf(" for more than %.0f %% of the %.0f packets/s it receives", 100*l.Share, max(o.AllPPS, o.PPS))
}

// reason says in numbers why an observation is an attack; covered is the time for which it was.
func reason(o traffic.Observation, f finding, covered time.Duration) string {
	what, rate, limit := "packets/s", o.PPS, f.pps
	if f.pps == 0 {
		what, rate, limit = "bit/s", o.BPS, f.bps
	}
	windows := max(int((covered+Window/2)/Window), 1)
	spread := ""
	if o.Network {
		spread = fmt.Sprintf(" in %d hosts", o.ActiveHosts)
	}
	sent := ""
	if o.Direction == vector.Outbound {
		sent = " sent"
	}
	return fmt.Sprintf("%s%s %s %s: at least %.0f %s%s, limit %.0f%s, over %s of %d ms, seen by %s",
		o.Vector, sent, preposition(o.Direction), o.Target, rate, what, spread, limit, f.why, count(windows, "window"), Window.Milliseconds(), seenBy(o.SensorCount, o.Sensors))
}

func preposition(d vector.Direction) string {
	if d == vector.Outbound {
		return "by"
	}
	return "at"
}

// seenBy names a few sensors and counts many.
func seenBy(n int, names []string) string {
	if n = max(n, len(names)); n > 3 || len(names) < n {
		return count(n, "sensor")
	}
	return strings.Join(names, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
