package speaker

import (
	"errors"
	"fmt"
	"net"
	"time"
)

// A router may say that it is alive and take nothing of what it is sent: its window is shut, or the path to it loses what we
// send. What is written then waits in the kernel of this host, which has room for thousands of routes, so a write tells of it
// late or never. What tells is whether TCP has anything acknowledged: it is looked at once a second, shown soon, and ends the
// session when RFC 9687 says so, not before.

const (
	stallPoll    = time.Second
	stallShown   = 5 * time.Second // less is a lost packet or two
	leastSendTry = 8 * time.Minute
)

// sendHoldTime is how long a router may take nothing before its session ends, by the negotiated hold time: the greater of
// eight minutes and twice that (RFC 9687, section 4). 0: for ever, as the hold time of 0 says.
func sendHoldTime(hold time.Duration) time.Duration {
	if hold == 0 {
		return 0
	}
	return max(leastSendTry, 2*hold)
}

// stall follows what a router takes.
type stall struct {
	acked uint64    // octets
	since time.Time // since when it has acknowledged nothing although something waits; zero: nothing waits
}

// look takes how many octets the router has acknowledged and whether more wait for that. It returns since when it takes
// nothing, or the zero time.
func (s *stall) look(now time.Time, acked uint64, waits bool) time.Time {
	switch {
	case !waits:
		s.since = time.Time{}
	case s.since.IsZero() || acked != s.acked:
		s.since = now
	}
	s.acked = acked
	return s.since
}

// watch looks what the router takes until done is closed, and ends the session of one that takes nothing for too long.
func (p *pair) watch(done <-chan struct{}) {
	tick := time.NewTicker(stallPoll)
	defer tick.Stop()
	var s stall
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		acked, waits, err := p.taken()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.guard.log.Error("the kernel does not say what the router takes: one that takes nothing goes unseen in this session", "peer", p.guard.peer.Name, "err", err)
			return
		}
		now := time.Now()
		since := s.look(now, acked, waits)
		if since.IsZero() || now.Sub(since) < stallShown {
			p.guard.stalls(time.Time{})
			continue
		}
		p.guard.stalls(since)
		if limit := p.sendHold(); limit > 0 && now.Sub(since) >= limit {
			p.finish(&notification{errSendHold, 0, fmt.Sprintf("send hold timer expired: %s", stalledWords(limit))})
			return
		}
	}
}

// sendHold is the send hold time of an established session, 0 before.
func (p *pair) sendHold() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.up {
		return 0 // GoBGP's timers end it
	}
	return sendHoldTime(p.hold)
}

// stalls notes since when the router takes nothing; the zero time says that it takes what it is sent.
func (g *guard) stalls(since time.Time) {
	g.mu.Lock()
	was := g.session.stalled
	g.session.stalled = since
	g.mu.Unlock()
	switch {
	case was.IsZero() == since.IsZero():
		return
	case since.IsZero():
		g.log.Info("the router takes what it is sent again", "peer", g.peer.Name, "after", time.Since(was).Round(time.Second))
	default:
		g.log.Error("the router takes nothing of what it is sent: rules and withdrawals wait on the way to it",
			"peer", g.peer.Name, "since", since.UTC(), "action", "look at the load of the router and at the path to it")
	}
	g.changed()
}

// stalledWords says what it means that a router has taken nothing for so long.
func stalledWords(d time.Duration) string {
	return fmt.Sprintf("the router has acknowledged nothing of what was sent to it for %s; look at the router (its BGP hung or overloaded while it still sends KEEPALIVEs) and for packet loss or an attack on the path from here to it", d.Round(time.Second))
}
