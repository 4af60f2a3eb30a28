package speaker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// notificationWords says what a NOTIFICATION of the router means and what to do about it. The codes are of RFC 4271, section 4.5, RFC
// 4486, RFC 5492, RFC 8538 and RFC 9687.
func notificationWords(code, sub byte) string {
	type key struct{ code, sub byte }
	words := map[key]string{
		{1, 0}:  "message header error",
		{1, 1}:  "message header error, connection not synchronised: something else than BGP answers, or a device on the way changes the stream",
		{1, 2}:  "message header error, bad length",
		{1, 3}:  "message header error, bad type",
		{2, 0}:  "OPEN refused",
		{2, 1}:  "OPEN refused, unsupported version",
		{2, 2}:  "OPEN refused, bad peer AS: compare the peer's asn and our own asn with the router's configuration",
		{2, 3}:  "OPEN refused, bad BGP identifier: two speakers share a router_id, give each its own",
		{2, 4}:  "OPEN refused, unsupported optional parameter",
		{2, 6}:  "OPEN refused, unacceptable hold time: raise hold_time to at least 3s",
		{2, 7}:  "OPEN refused, unsupported capability: activate on the router the families this peer is configured for",
		{3, 0}:  "UPDATE refused: a route we sent is one the router cannot take; its log names it",
		{3, 1}:  "UPDATE refused, malformed attribute list: a route we sent is one the router cannot take; its log names it",
		{3, 9}:  "UPDATE refused, optional attribute error: a FlowSpec rule or blackhole we sent is one the router cannot take; its log names it",
		{3, 10}: "UPDATE refused, invalid network field: a blackhole we sent is one the router cannot take; its log names it",
		{3, 11}: "UPDATE refused, malformed AS path: a router in a BGP confederation must not take us for another member of it",
		{4, 0}:  "hold timer expired: the router heard nothing of us for the hold time; look for packet loss or an attack on the path from here to it, and for a speaker without CPU or stopped; BIRD takes no session for its error wait time now, 60 s or more",
		{5, 0}:  "finite state machine error",
		{5, 1}:  "finite state machine error, unexpected message in OpenSent",
		{5, 2}:  "finite state machine error, unexpected message in OpenConfirm",
		{5, 3}:  "finite state machine error, unexpected message in Established",
		{6, 0}:  "session closed",
		{6, 1}:  "maximum number of prefixes reached: raise the router's limit or lower max_rules of this peer",
		{6, 2}:  "administrative shutdown: the neighbour is shut down by configuration",
		{6, 3}:  "peer de-configured: the neighbour was removed from the configuration",
		{6, 4}:  "administrative reset: an operator cleared the session, it comes back",
		{6, 5}:  "connection rejected: the router does not accept this session now, compare address, asn and passive on both sides",
		{6, 6}:  "other configuration change: the session comes back",
		{6, 7}:  "connection collision: both sides connected at once, it comes back",
		{6, 8}:  "out of resources: the router is short of memory",
		{6, 9}:  "hard reset: routes are gone from the router until the session is back",
		{6, 10}: "BFD down: the path to the router is interrupted",
		{7, 1}:  "ROUTE-REFRESH refused, invalid length",
		{8, 0}:  "send hold timer expired: this speaker took nothing of what the router sent it for minutes; look at this host (out of CPU, stopped) and for packet loss or an attack on the path from the router to here",
	}
	text, ok := words[key{code, sub}]
	if !ok {
		if text, ok = words[key{code, 0}]; ok {
			text = fmt.Sprintf("%s, subcode %d", text, sub)
		} else {
			text = "not a code we know"
		}
	}
	return fmt.Sprintf("%s (NOTIFICATION %d/%d)", text, code, sub)
}

// silentRouter is what it means that a hold timer of ours expired.
const silentRouter = "hold timer expired: nothing came from the router for the hold time; look at the router (hung, overloaded, gone) and for packet loss or an attack on the path from it to here (NOTIFICATION 4/0)"

// correctASN is what to do about a router of another AS than the configured one. To take its number suffices, but for one case:
// RFC 5065 wants AS_CONFED_SEQUENCE from another member of a confederation, and RFC 7606 no NOTIFICATION where it is missing.
const correctASN = "correct the peer's asn; where the router is in a BGP confederation, correct its configuration if it takes us for a member of that, for then it drops all our routes without a word"

// connectWords says why a connection did not come about and what to do about it.
func connectWords(p Peer, err error) string {
	at := p.endpoint().String()
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("%s refuses connections: is BGP running there, and is the port right?", at)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Sprintf("no route to %s: check interface, address and routing of this host", at)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("local address %s is not on this host: correct local_address", p.LocalAddress)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Sprintf("connecting to %s is not permitted (%v): a local packet filter, or a missing capability", at, err)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		why := "routing and packet filters on the way"
		if p.MD5 != "" {
			why = "the MD5 password on both sides (a wrong one looks like silence), routing and packet filters"
		} else if p.TTLSecurity {
			why = "TTL security on both sides, routing and packet filters"
		}
		return fmt.Sprintf("%s does not answer: check %s", at, why)
	}
	return fmt.Sprintf("connect to %s: %v", at, err)
}

// closedWords says what it means that the router closed the connection in the given state.
func closedWords(p Peer, s SessionState, err error) string {
	what := "closed the connection"
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		what = fmt.Sprintf("broke the connection (%v)", err)
	}
	if s < OpenConfirm {
		local := "this host's address"
		if p.LocalAddress.IsValid() {
			local = p.LocalAddress.String()
		}
		return fmt.Sprintf("the router %s before its OPEN: configure %s there as a neighbour, with our asn; if it is, and a session was up a short while ago, the router waits after an error (BIRD: error wait time, 60 s or more)", what, local)
	}
	return fmt.Sprintf("the router %s without a NOTIFICATION: it restarted, or a device on the way did; routes it keeps by graceful restart stay", what)
}
