package speaker

import (
	"context"
	"fmt"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// GoBGP v3.37 never gives back the table entry of a route it originated: after a withdrawal about a kilobyte of each NLRI that
// ever was stays until the process ends. Started once more it begins with an empty table, though, and says nothing to
// its neighbour. So after so many withdrawals we do that, and add what the router has again: to the router that is the
// same routes with the same attributes once more. The neighbour keeps the table it began with until its session ends, so
// what stays is bounded by twice that many.
const renewAfter = 20_000

// empty gives GoBGP an empty table. The caller holds mu.
func (r *router) empty() error {
	r.left, r.renewed = 0, false
	return r.bgp.StartBgp(context.Background(), global(r.asn, r.id))
}

// renewDue reports whether it is time for that: many entries are left, and nothing waits. The caller holds mu.
func (r *router) renewDue() bool {
	return r.left >= r.renewAfter && r.out.up && r.out.flying == 0 && len(r.out.drop)+len(r.out.add)+len(r.direct) == 0
}

// renew empties GoBGP's table and fills it again. When that fails the session is ended, which begins with both anew. The
// caller holds mu.
func (r *router) renew(now time.Time) {
	begin, left := time.Now(), r.left
	err := r.empty()
	for _, it := range r.out.order {
		h := r.out.held[it.id]
		if h == nil || err != nil {
			continue
		}
		if err = r.addPath(h.item); err == nil {
			r.out.fly(now, h.key)
		}
	}
	r.renewed = true
	r.m.renewals.WithLabelValues(r.peer.Name).Inc()
	if err != nil {
		r.log.Error("GoBGP does not take its routes again: the session begins anew", "err", err)
		if r.pair != nil {
			go r.pair.finish(fmt.Errorf("GoBGP does not take its routes again: %w", err))
		}
		return
	}
	r.log.Info("GoBGP's table was emptied of what was withdrawn", "withdrawn", left, "routes", len(r.out.held), "took", time.Since(begin).Round(time.Millisecond))
}

// refresh sends all again, for the router asks for it (RFC 2918). It reports false where GoBGP can do that itself: not
// after renew, for then the neighbour looks at a table of before.
func (r *router) refresh() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.renewed {
		return false
	}
	if now := time.Now(); now.Sub(r.refreshed) > time.Second && r.out.up {
		r.refreshed = now
		r.renew(now)
	}
	return true
}

func (r *router) addPath(it *item) error {
	path, err := r.attrs.path(*it.enc, it.Route.Action, false)
	if err == nil {
		_, err = r.bgp.AddPath(context.Background(), &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: path})
	}
	return err
}
