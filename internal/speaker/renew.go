package speaker

import (
	"context"
	"fmt"
	"maps"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// GoBGP v3.37 never gives back the table entry of a route it originated: after a withdrawal about a kilobyte of each NLRI
// that ever was stays until the process ends. Started once more it begins with an empty table, though, and says nothing to
// its neighbour. So after so many withdrawals, give or take a quarter, we do that, and add what the router has again: to
// the router that is the same routes with the same attributes once more. The neighbour keeps the table it began with until
// its session ends, so what stays is bounded by twice that many.
const renewAfter = 20_000

// empty gives GoBGP an empty table. The caller holds mu.
func (r *router) empty() error {
	r.left, r.renewed, r.again = 0, false, false
	clear(r.refill)
	return r.bgp.StartBgp(context.Background(), global(r.asn, r.id))
}

// renewDue reports whether it is time for that: the router asked for all, or many entries are left and nothing waits;
// or after how long it will be. The caller holds mu.
func (r *router) renewDue(now time.Time) (due bool, wait time.Duration) {
	if !r.out.up {
		return false, 0
	}
	if r.again {
		wait = r.refreshed.Add(refreshPause).Sub(now)
		return wait <= 0, max(wait, 0)
	}
	return r.left >= r.renewAfter && len(r.refill)+r.out.flying+len(r.out.drop)+len(r.out.add)+len(r.direct) == 0, 0
}

// refreshPause is between two times that a router gets all again because it asks for it.
const refreshPause = time.Second

// renew empties GoBGP's table. What the router has, also what it is about to lose, is to be added to it again. The caller
// holds mu.
func (r *router) renew(now time.Time) {
	left := r.left
	err := r.empty()
	r.renewed, r.again, r.refreshed = true, false, now
	r.refill = maps.Clone(r.out.held)
	r.m.renewals.WithLabelValues(r.peer.Name).Inc()
	if err != nil {
		r.log.Error("GoBGP does not take an empty table: the session begins anew", "err", err)
		if r.pair != nil {
			go r.pair.finish(fmt.Errorf("GoBGP does not take an empty table: %w", err))
		}
		return
	}
	r.log.Info("GoBGP's table was emptied of what was withdrawn", "withdrawn", left, "routes", len(r.refill))
}

// fill adds a batch of what GoBGP's table lacks, the most valuable first, behind all that is new and at the router's pace.
// The caller holds mu.
func (r *router) fill(now time.Time) (more bool, wait time.Duration, failed int) {
	if len(r.refill) == 0 || !r.out.up || len(r.direct) > 0 || r.writing {
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
			break
		}
		if wait = r.out.pause(now); wait > 0 {
			return false, wait, failed
		}
		n++
		r.out.pace(now)
		failed += r.put(now, h)
	}
	// What is left waits for UPDATEs to leave, or is about to be withdrawn: withdraw puts it there first.
	return false, 0, failed
}

// put adds to GoBGP's table what the router has and the table lacks. The caller holds mu.
func (r *router) put(now time.Time, h *held) (failed int) {
	delete(r.refill, h.id)
	if r.out.held[h.id] != h {
		return 0 // another action was announced meanwhile
	}
	if err := r.addPath(h.item); err != nil {
		r.log.Error("GoBGP does not take a route again: the session begins anew", "route", h.text, "err", err)
		if r.pair != nil {
			go r.pair.finish(fmt.Errorf("GoBGP does not take %q again: %w", h.text, err))
		}
		return 1
	}
	h.repeated = true
	r.out.fly(now, h.key)
	return 0
}

// refresh sends all again, for the router asks for it (RFC 2918). It reports false where GoBGP can do that itself: not
// after renew, for then the neighbour looks at a table of before.
func (r *router) refresh() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.renewed {
		r.again = true
		r.poke()
	}
	return r.renewed
}

func (r *router) addPath(it *item) error {
	path, err := r.attrs.path(*it.enc, it.Route.Action, false)
	if err == nil {
		_, err = r.bgp.AddPath(context.Background(), &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: path})
	}
	return err
}
