package scenario

import "time"

// tempo is when a stream has packets, or conversations.
type tempo struct {
	from, to time.Duration
	pps      float64 // at its highest
	ramp     bool    // from next to nothing at the beginning to pps at the end
	// on and off make a pulse wave; no off makes it steady.
	on, off time.Duration
	// burst packets come in a row, gap apart; pps is the mean over them.
	burst int
	gap   time.Duration
}

// always is a steady stream for the whole scenario.
func (c *cast) always(pps float64) tempo { return tempo{to: c.duration, pps: pps} }

// builder writes the packet; n is its number.
type builder func(r *rng, f *frame, n uint64)

// actor is one stream: the times of its packets, and what they are. The actors of a conversation draw the same random
// numbers, each of them later than the one before.
type actor struct {
	rng
	tempo
	shift    time.Duration
	label    int
	build    builder
	base     float64 // nanoseconds; the last beginning of a burst
	interval float64 // between them
	n        uint64
	left     int   // of the burst
	at       int64 // when the next packet is due, with shift
}

func (a *actor) begin() {
	a.burst = max(a.burst, 1)
	a.interval = float64(a.burst) * 1e9 / a.pps
	a.base = float64(a.from) + float64(a.interval*a.float()) // the conversion forbids to fuse, for octets are those of any machine
	a.left = a.burst - 1
	a.at = int64(a.base) + int64(a.shift)
}

// advance finds the time of the next packet; false when there is none.
func (a *actor) advance() bool {
	a.n++
	if a.left > 0 {
		a.left--
		a.at += int64(a.gap)
		return true
	}
	a.left = a.burst - 1
	step := float64(a.interval * (0.5 + a.float()))
	if a.ramp {
		step /= max(0.02, (a.base-float64(a.from))/float64(a.to-a.from))
	}
	a.base += step
	if a.off > 0 {
		period := float64(a.on + a.off)
		phase := a.base - float64(a.from)
		for phase >= period {
			phase -= period
		}
		if phase >= float64(a.on) {
			a.base += period - phase
		}
	}
	if a.base >= float64(a.to) {
		return false
	}
	a.at = max(a.at, int64(a.base)+int64(a.shift))
	return true
}
