package lab

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Version is what BIRD says of itself.
func (b *BIRD) Version(ctx context.Context) (string, error) {
	text, err := b.Command(ctx, "show status")
	line, _, _ := strings.Cut(text, "\n")
	return lastWord(line), err
}

// Negotiated are the families both ends offered.
func (b *BIRD) Negotiated(ctx context.Context, neighbor string) ([]AddressFamily, error) {
	text, err := b.Command(ctx, "show protocols all "+birdName(Neighbor{Name: neighbor}))
	if err != nil {
		return nil, err
	}
	var offered [][]string
	for line := range strings.Lines(text) {
		if names, ok := strings.CutPrefix(strings.TrimSpace(line), "AF announced:"); ok {
			offered = append(offered, strings.Fields(names))
		}
	}
	if len(offered) != 2 {
		return nil, nil
	}
	var out []AddressFamily
	for i, name := range []string{"ipv4", "ipv6", "flow4", "flow6"} {
		if slices.Contains(offered[0], name) && slices.Contains(offered[1], name) {
			out = append(out, AllFamilies()[i])
		}
	}
	return out, nil
}

// Received returns what birdc prints of the tables.
func (b *BIRD) Received(ctx context.Context) ([]Received, error) {
	var out []Received
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		text, err := b.FlowSpecText(ctx, f)
		if err != nil {
			return nil, err
		}
		rules := flowReceived(partsFrom(text, fmt.Sprintf("flow%d {", f)), f, parseBIRDFlow)
		for i := range rules {
			if rules[i].Err == nil {
				rules[i].Path, rules[i].Err = birdPath(rules[i].Raw)
			}
		}
		out = append(out, rules...)
		if text, err = b.Command(ctx, fmt.Sprintf("show route table master%d all", f)); err != nil {
			return nil, err
		}
		routes, err := parseBIRDUnicast(text)
		if err != nil {
			return nil, err
		}
		out = append(out, routes...)
	}
	return out, nil
}

// birdPath reads the attributes of a route.
func birdPath(text string) (p Path, err error) {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && strings.HasPrefix(line, "\t") {
			if err := setBIRDPath(&p, key, value); err != nil {
				return p, fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
			}
		}
	}
	return p, nil
}

var birdPair = regexp.MustCompile(`\((\d+),(\d+)\)`)

// parseBIRDUnicast reads the answer to "show route table X all" for a table of unicast routes.
func parseBIRDUnicast(text string) ([]Received, error) {
	var out []Received
	prefix := netip.Prefix{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line == "" || strings.HasPrefix(line, "Table "):
		case strings.HasPrefix(line, "\t"):
			key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
			if len(out) == 0 || !ok {
				if strings.HasPrefix(line, "\tvia ") || strings.HasPrefix(line, "\tdev ") {
					continue
				}
				return nil, fmt.Errorf("BIRD printed %q, which is not understood", line)
			}
			r := &out[len(out)-1]
			r.Raw += "\n" + line
			if err := setBIRDPath(&r.Path, key, strings.TrimSpace(value)); err != nil && r.Err == nil {
				r.Err = fmt.Errorf("%s: %w", line, err)
			}
		default:
			rest := line
			if first := strings.Fields(line)[0]; !strings.HasPrefix(line, " ") {
				var err error
				if prefix, err = netip.ParsePrefix(first); err != nil {
					return nil, fmt.Errorf("BIRD printed %q: %w", line, err)
				}
				rest = strings.TrimPrefix(line, first)
			}
			g := birdRoute.FindStringSubmatch(strings.Replace(rest, " unicast [", " [", 1))
			if g == nil {
				return nil, fmt.Errorf("BIRD printed %q, which is no route", line)
			}
			r := Received{Family: Unicast4, Match: route.Match{Destination: prefix}, Unreachable: g[1] == "unreachable ", Raw: line}
			if prefix.Addr().Is6() {
				r.Family = Unicast6
			}
			var err error
			if r.From, err = parseAddr(g[3]); err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func setBIRDPath(p *Path, key, value string) (err error) {
	switch key {
	case "BGP.next_hop":
		first, _, _ := strings.Cut(value, " ") // a link-local one may follow
		p.NextHop, err = netip.ParseAddr(first)
	case "BGP.community":
		for _, g := range birdPair.FindAllStringSubmatch(value, -1) {
			high, err1 := strconv.ParseUint(g[1], 10, 16)
			low, err2 := strconv.ParseUint(g[2], 10, 16)
			if err1 != nil || err2 != nil {
				return fmt.Errorf("community %s is not understood", g[0])
			}
			p.Communities = append(p.Communities, uint32(high<<16|low))
		}
		slices.Sort(p.Communities)
	case "BGP.large_community":
		text := strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(value, ", ", ":"), "(", ""), ")", "")
		p.Large, err = parseLarge(strings.Fields(text))
	case "BGP.med", "BGP.local_pref":
		var v uint64
		if v, err = strconv.ParseUint(value, 10, 32); err != nil {
			return err
		}
		if key == "BGP.med" {
			p.MED = someMetric(uint32(v))
		} else {
			p.LocalPref = route.Some(uint32(v))
		}
	}
	return err
}

var _ Receiver = (*BIRD)(nil)
