package speaker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// listenPassive serves the connections of passive peers.
func (s *speaker) listenPassive(ctx context.Context, wg *sync.WaitGroup) error {
	byAddr := map[netip.Addr]*router{}
	var peers []Peer
	for _, r := range s.routers {
		if r.peer.Passive {
			byAddr[r.peer.Address] = r
			peers = append(peers, r.peer)
		}
	}
	if len(peers) == 0 {
		return nil
	}
	addrs := s.o.ListenAddresses
	if len(addrs) == 0 {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, a := range addrs {
		if !slices.ContainsFunc(peers, func(p Peer) bool { return p.Address.Is6() == a.Is6() }) {
			continue
		}
		ln, err := listenBGP(netip.AddrPortFrom(a, uint16(s.o.ListenPort)), peers)
		if err != nil {
			return fmt.Errorf("listen for BGP on port %d: %w", s.o.ListenPort, err)
		}
		context.AfterFunc(ctx, func() { ln.Close() })
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					s.log.Error("accept BGP connection", "err", err)
					continue
				}
				from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
				r := byAddr[from]
				if r == nil {
					s.log.Warn("BGP connection from an address that is no passive peer", "from", from.String())
					c.Close()
					continue
				}
				if err := r.peer.prepareAccepted(c); err != nil {
					r.guard.fail(fmt.Sprintf("accepted connection cannot be prepared: %v", err))
					c.Close()
					continue
				}
				r.guard.give(c)
			}
		})
	}
	return nil
}
