package audit

// ring holds the latest events.
type ring struct {
	events []Event
	next   int
	full   bool
}

func newRing(n int) ring { return ring{events: make([]Event, n)} }

func (r *ring) add(e Event) {
	r.events[r.next] = e
	if r.next++; r.next == len(r.events) {
		r.next, r.full = 0, true
	}
}

// last returns the latest n, oldest first; all when n is 0 or too many.
func (r *ring) last(n int) []Event {
	have := r.next
	if r.full {
		have = len(r.events)
	}
	if n <= 0 || n > have {
		n = have
	}
	out := make([]Event, 0, n)
	for i := range n {
		out = append(out, r.events[(r.next-n+i+len(r.events))%len(r.events)])
	}
	return out
}
