package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// accounts writes what was received as texts.
func accounts(t *testing.T, all []Received) []string {
	t.Helper()
	var out []string
	for _, r := range all {
		if r.Err != nil || r.Raw == "" {
			t.Errorf("%v, from %q", r.Err, r.Raw)
		}
		text := fmt.Sprintf("%s %s", r.Family, r.Match)
		if r.Family == FlowSpec4 || r.Family == FlowSpec6 {
			text += " then " + r.Action.String()
		} else {
			text += fmt.Sprintf(" via %s with %x", r.Path.NextHop, r.Path.Communities)
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

// The same seven routes of ours, as each router showed them.
var (
	received4 = []string{
		"ipv4-flowspec destination 198.18.0.1/32 source 100.64.0.0/27 protocol tcp destination-port 80,443 source-port 1024-65535 tcp-flags !fin&!rst,syn&!ack length 40-60 dscp 0 fragment !is-fragment,is-fragment&!last-fragment then discard",
		"ipv4-flowspec destination 198.18.0.2/32 protocol udp port 53,1000-2000,2500 then rate-limit 8Mbps",
		"ipv4-flowspec destination 198.18.0.3/32 fragment dont-fragment then rate-limit 99999997952bps",
		"ipv4-flowspec destination 198.18.0.3/32 protocol icmp icmp-type 8,10-12 icmp-code 0 then rate-limit 1kpps",
	}
	received6 = []string{
		"ipv6-flowspec destination 2001:db8:1::1/128 source 3fff::/29 protocol tcp destination-port 80,443 source-port 1024-65535 tcp-flags !fin&!rst,syn&!ack length 40-60 dscp 0 fragment !is-fragment,is-fragment&!last-fragment then discard",
	}
	hole4 = []string{"ipv4-unicast destination 198.18.0.4/32 via 192.0.2.1 with [ffff029a ffffff01]"}
	hole6 = []string{"ipv6-unicast destination 2001:db8:4::1/128 via 100::1 with [ffff029a ffffff01]"}
)

func TestReceived(t *testing.T) {
	gobgp := func(f AddressFamily) func(string) ([]Received, error) {
		return func(text string) ([]Received, error) { return parseGoBGP(text, f) }
	}
	exabgp := func(text string) ([]Received, error) {
		table, err := parseExaBGP(strings.NewReader(text))
		return table.routes(), err
	}
	for _, c := range []struct {
		file string
		read func(string) ([]Received, error)
		want []string
	}{
		{"gobgp-3.10-ipv4-flowspec.json", gobgp(FlowSpec4), received4},
		{"gobgp-3.10-ipv6-flowspec.json", gobgp(FlowSpec6), received6},
		{"gobgp-3.10-ipv4.json", gobgp(Unicast4), hole4},
		{"gobgp-3.10-ipv6.json", gobgp(Unicast6), hole6},
		// The last three of seven were withdrawn.
		{"exabgp-4.2.21.events", exabgp, received4},
		{"openbgpd-7.7-rib.json", parseOpenBGPD, slices.Concat(hole4, hole6)},
		{"frr-8.4.4-unicast4.json", parseFRRUnicast, hole4},
		{"bird-2.0.12-master6.txt", parseBIRDUnicast, hole6},
	} {
		t.Run(c.file, func(t *testing.T) {
			got, err := c.read(recorded(t, c.file))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, accounts(t, got)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// An account that is not understood is kept as such: it is not "no rule", and costs no other rule its account.
func TestReceivedNotUnderstood(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		read func(string) ([]Received, error)
	}{
		"gobgp, another component": {
			`{"x":[{"nlri":{"value":[{"type":1,"value":{"prefix":"198.18.0.1/32"}},{"type":99,"value":[{"op":129,"value":6}]}]}}]}`,
			func(s string) ([]Received, error) { return parseGoBGP(s, FlowSpec4) },
		},
		"gobgp, another community": {
			`{"x":[{"nlri":{"value":[{"type":1,"value":{"prefix":"198.18.0.1/32"}}]},"attrs":[{"type":16,"value":[{"type":128,"subtype":77,"value":"AAAA"}]}]}]}`,
			func(s string) ([]Received, error) { return parseGoBGP(s, FlowSpec4) },
		},
		"OpenBGPD": {`{"rib":[{"prefix":"198.18.0.1/32","communities":["SOMETHING"]}]}`, parseOpenBGPD},
		"FRR": {
			"BGP flowspec entry: (flags 0x418)\n\tDestination Address 198.18.0.1/32\n\tColour = 6\n",
			func(s string) ([]Received, error) {
				return flowReceived(partsFrom(s, "BGP flowspec entry:"), route.IPv4, parseFRRFlow), nil
			},
		},
		"ExaBGP": {
			`{"type":"update","neighbor":{"address":{"peer":"10.66.1.1"},"message":{"update":{"announce":{"ipv4 flow":{"no-nexthop":[{"string":"flow destination-ipv4 198.18.0.1/32 colour =6"}]}}}}}}` + "\n",
			func(s string) ([]Received, error) {
				table, err := parseExaBGP(strings.NewReader(s))
				return table.routes(), err
			},
		},
	} {
		got, err := c.read(c.text)
		if err != nil || len(got) != 1 || got[0].Err == nil || !strings.Contains(got[0].Raw, "198.18.0.1") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, read := range map[string]func(string) ([]Received, error){
		"FRR": parseFRRUnicast, "BIRD": parseBIRDUnicast, "OpenBGPD": parseOpenBGPD,
		"gobgp": func(s string) ([]Received, error) { return parseGoBGP(s, Unicast4) },
	} {
		if got, err := read("% Unknown command\n"); err == nil {
			t.Errorf("%s: read as %v", name, got)
		}
	}
}

// ExaBGP keeps no table: a session that ends takes its routes with it, and an event half written is not read yet.
func TestExaBGPEvents(t *testing.T) {
	events := recorded(t, "exabgp-4.2.21.events")
	table, err := parseExaBGP(strings.NewReader(events + `{ "type": "update", "nei`))
	if err != nil || len(table.routes()) != len(received4) {
		t.Errorf("%v, %v", accounts(t, table.routes()), err)
	}
	if got := table.negotiated("10.66.1.1"); !slices.Equal(got, AllFamilies()) {
		t.Errorf("negotiated %v", got)
	}
	table, err = parseExaBGP(strings.NewReader(events +
		`{ "type": "state", "neighbor": { "address": { "peer": "10.66.1.1" }, "state": "down", "reason": "peer reset" } }` + "\n"))
	if err != nil || len(table.routes()) != 0 || table.negotiated("10.66.1.1") != nil {
		t.Errorf("%v, %v", accounts(t, table.routes()), err)
	}
}

func TestOpenBGPDFamilies(t *testing.T) {
	got, err := parseOpenBGPDFamilies(recorded(t, "openbgpd-7.7-neighbor.json"))
	if err != nil || !slices.Equal(got, []AddressFamily{Unicast4, Unicast6}) {
		t.Errorf("negotiated %v, %v", got, err)
	}
}

// Operators of RFC 8955, section 4.2.1, and what cannot be said in the terms of package route.
func TestWire(t *testing.T) {
	var m route.Match
	for _, c := range []struct {
		kind  int
		items []wireItem
	}{
		{3, []wireItem{{wireLess | wireMore, 6}}},
		{5, []wireItem{{wireMore, 10}, {wireAnd | wireLess, 20}, {wireEqual, 53}}},
		{9, []wireItem{{0, 2}, {wireAnd | wireNot, 0x14}, {wireNot | wireMatch, 1}}},
		{12, []wireItem{{wireMatch, 6}}},
	} {
		if err := setWire(&m, c.kind, c.items); err != nil {
			t.Errorf("type %d: %v", c.kind, err)
		}
	}
	want := "protocol 0-5,7-255 destination-port 11-19,53 tcp-flags syn&!rst&!ack,!fin fragment is-fragment&first-fragment"
	if got := m.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, c := range []struct {
		kind  int
		items []wireItem
	}{
		{3, []wireItem{{0, 6}}},
		{3, []wireItem{{wireEqual, 256}}},
		{9, []wireItem{{0, 3}}},
		{9, []wireItem{{wireNot | wireMatch, 3}}},
		{9, []wireItem{{0, 0}}},
		{77, []wireItem{{wireEqual, 1}}},
	} {
		if err := setWire(&m, c.kind, c.items); err == nil {
			t.Errorf("type %d %v was read as %s", c.kind, c.items, m)
		}
	}
}
