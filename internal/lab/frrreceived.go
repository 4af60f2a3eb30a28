package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Version is what vtysh says.
func (r *FRR) Version(ctx context.Context) (string, error) {
	text, err := r.Command(ctx, "show version")
	w := strings.Fields(text)
	if err == nil && (len(w) < 2 || w[0] != "FRRouting") {
		err = fmt.Errorf("FRR printed %.100q as its version", text)
	}
	if err != nil {
		return "", err
	}
	return w[1], nil
}

// Negotiated are the families both ends offered.
func (r *FRR) Negotiated(ctx context.Context, neighbor string) ([]AddressFamily, error) {
	n, err := r.config.neighbor(neighbor)
	if err != nil {
		return nil, err
	}
	text, err := r.Command(ctx, "show bgp neighbors json")
	if err != nil {
		return nil, err
	}
	var peers map[string]struct {
		Capabilities struct {
			Multiprotocol map[string]struct {
				Both bool `json:"advertisedAndReceived"`
			} `json:"multiprotocolExtensions"`
		} `json:"neighborCapabilities"`
	}
	if err := json.Unmarshal([]byte(text), &peers); err != nil {
		return nil, fmt.Errorf("read FRR's neighbours: %w", err)
	}
	var out []AddressFamily
	for _, f := range AllFamilies() {
		for key, family := range frrFamilies {
			if family == f && peers[n.Address.String()].Capabilities.Multiprotocol[key].Both {
				out = append(out, f)
			}
		}
	}
	return out, nil
}

// Received returns what vtysh prints of the BGP tables.
func (r *FRR) Received(ctx context.Context) ([]Received, error) {
	var out []Received
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		text, err := r.FlowSpecText(ctx, f)
		if err != nil {
			return nil, err
		}
		rules, _, _ := strings.Cut(text, "\nDisplayed ")
		out = append(out, flowReceived(partsFrom(rules, "BGP flowspec entry:"), f, parseFRRFlow)...)
		if text, err = r.Command(ctx, fmt.Sprintf("show bgp %s unicast json detail", f)); err != nil {
			return nil, err
		}
		routes, err := parseFRRUnicast(text)
		if err != nil {
			return nil, err
		}
		out = append(out, routes...)
	}
	return out, nil
}

// parseFRRUnicast reads what "show bgp ipv4 unicast json detail" prints: of each prefix a head and its paths.
func parseFRRUnicast(text string) ([]Received, error) {
	var table struct {
		Routes map[string][]json.RawMessage `json:"routes"`
	}
	if err := json.Unmarshal([]byte(text), &table); err != nil {
		return nil, fmt.Errorf("FRR printed %.300q: %w", text, err)
	}
	var out []Received
	for prefix, list := range table.Routes {
		for _, raw := range list {
			var p struct {
				NextHops []struct {
					IP string `json:"ip"`
				} `json:"nexthops"`
				Valid     bool `json:"valid"`
				Community struct {
					String string `json:"string"`
				} `json:"community"`
				Large struct {
					List []string `json:"list"`
				} `json:"largeCommunity"`
				Metric    uint32 `json:"metric"`
				LocalPref uint32 `json:"locPrf"`
				Peer      struct {
					ID string `json:"peerId"`
				} `json:"peer"`
			}
			if err := json.Unmarshal(raw, &p); err != nil {
				return nil, fmt.Errorf("FRR printed %.300q: %w", raw, err)
			}
			if p.Peer.ID == "" {
				continue // the head
			}
			r := Received{Family: Unicast4, Raw: prefix + " " + string(raw), Unreachable: !p.Valid}
			if strings.Contains(prefix, ":") {
				r.Family = Unicast6
			}
			var err1, err2, err3, err4, err5 error
			r.Path.MED, r.Path.LocalPref = someMetric(p.Metric), someMetric(p.LocalPref)
			r.Path.Large, err5 = parseLarge(p.Large.List)
			r.Match.Destination, err1 = netip.ParsePrefix(prefix)
			r.From, err2 = parseAddr(p.Peer.ID)
			r.Path.Communities, err3 = parseCommunities(strings.Fields(p.Community.String))
			if len(p.NextHops) > 0 {
				r.Path.NextHop, err4 = parseAddr(p.NextHops[0].IP)
			}
			r.Err = errors.Join(err1, err2, err3, err4, err5)
			out = append(out, r)
		}
	}
	return out, nil
}

var _ Receiver = (*FRR)(nil)
