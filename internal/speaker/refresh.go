package speaker

import (
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// A router that sends ROUTE-REFRESH (RFC 2918) gets all it has of a family once more: behind what is new, the most valuable first, at its
// pace, and not more often than every refreshPause. GoBGP, which has no routes, does not hear of it.

const refreshPause = time.Second

// refresh notes that the router asks for all of a table again.
func (r *router) refresh(t compile.Table) {
	r.mu.Lock()
	r.again[t] = true
	r.mu.Unlock()
	r.poke()
}

// refreshDue begins to send all again where it is time for that, and returns how long it is until then otherwise; 0 means
// nobody asked. The caller holds mu.
func (r *router) refreshDue(now time.Time) (wait time.Duration) {
	if !r.out.up || len(r.again) == 0 {
		return 0
	}
	if wait = r.refreshed.Add(refreshPause).Sub(now); wait > 0 {
		return wait
	}
	for id, h := range r.out.held { // beside what is still to be sent again
		if r.again[h.enc.table] {
			r.refill[id] = h
		}
	}
	clear(r.again)
	r.refreshed = now
	if len(r.refill) > 0 {
		r.m.refreshes.WithLabelValues(r.peer.Name).Inc()
		r.log.Info("the router asks for routes again", "routes", len(r.refill))
	}
	return 0
}

// fill sends again a batch of what the router asked for. The caller holds mu.
func (r *router) fill(now time.Time) (more bool, wait time.Duration, failed int) {
	if len(r.refill) == 0 || !r.out.up {
		return false, 0, 0
	}
	n := 0
	for _, it := range r.out.order {
		h := r.refill[it.id]
		if h == nil {
			continue
		}
		if n == sendBatch {
			return true, 0, failed
		}
		if r.out.flying >= sendWindow {
			return false, 0, failed // until UPDATEs are written
		}
		if wait = r.out.pause(now); wait > 0 {
			return false, wait, failed
		}
		n++
		r.out.pace(now)
		delete(r.refill, h.id)
		if r.out.held[h.id] != h {
			continue // another action was announced meanwhile
		}
		if err := r.announce(h.item, h.key); err != nil {
			r.log.Error("a route cannot be sent again", "route", h.text, "err", err)
			failed++
			continue
		}
		h.repeated = true
		r.out.fly(now, h.key)
	}
	clear(r.refill) // what is left is about to be withdrawn
	return false, 0, failed
}
