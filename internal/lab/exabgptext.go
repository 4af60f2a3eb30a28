package lab

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// exabgpEvent is one line of ExaBGP's JSON encoder.
type exabgpEvent struct {
	Type     string `json:"type"`
	Neighbor struct {
		Address struct {
			Peer string `json:"peer"`
		} `json:"address"`
		State     string `json:"state"`
		Direction string `json:"direction"`
		Open      struct {
			Capabilities map[string]json.RawMessage `json:"capabilities"`
		} `json:"open"`
		Message struct {
			Update struct {
				Attribute struct {
					Community [][2]uint32 `json:"community"`
					Large     [][3]uint32 `json:"large-community"`
					MED       uint32      `json:"med"`
					LocalPref *uint32     `json:"local-preference"`
					Extended  []struct {
						Value  uint64 `json:"value"`
						String string `json:"string"`
					} `json:"extended-community"`
				} `json:"attribute"`
				Announce map[string]map[string][]json.RawMessage `json:"announce"`
				Withdraw map[string][]json.RawMessage            `json:"withdraw"`
			} `json:"update"`
		} `json:"message"`
	} `json:"neighbor"`
}

// exabgpTable is what a sequence of events leaves.
type exabgpTable struct {
	have    map[string]Received                   // by neighbour, family and NLRI
	offered map[string]map[string][]AddressFamily // by neighbour and direction
}

var exabgpFamilies = map[string]AddressFamily{
	"ipv4 unicast": Unicast4, "ipv6 unicast": Unicast6, "ipv4 flow": FlowSpec4, "ipv6 flow": FlowSpec6,
	"ipv4/unicast": Unicast4, "ipv6/unicast": Unicast6, "ipv4/flow": FlowSpec4, "ipv6/flow": FlowSpec6,
}

// parseExaBGP reads events, the last of which may be incomplete: it is being written.
func parseExaBGP(in io.Reader) (*exabgpTable, error) {
	t := &exabgpTable{have: map[string]Received{}, offered: map[string]map[string][]AddressFamily{}}
	for r := bufio.NewReader(in); ; {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		var e exabgpEvent
		if err := json.Unmarshal(line, &e); err != nil {
			// An event of another shape, such as the one about its own end, has a type; what has none is no event.
			var kind struct {
				Type string `json:"type"`
			}
			if json.Unmarshal(line, &kind) != nil || kind.Type == "" || kind.Type == "update" {
				return nil, fmt.Errorf("ExaBGP printed %.300q: %w", line, err)
			}
			continue
		}
		if err := t.take(e); err != nil {
			return nil, fmt.Errorf("ExaBGP printed %.300q: %w", line, err)
		}
	}
}

func (t *exabgpTable) take(e exabgpEvent) error {
	peer := e.Neighbor.Address.Peer
	switch e.Type {
	case "state":
		if e.Neighbor.State != "up" && e.Neighbor.State != "connected" {
			delete(t.offered, peer)
			maps.DeleteFunc(t.have, func(key string, _ Received) bool { return strings.HasPrefix(key, peer+" ") })
		}
	case "open":
		for _, raw := range e.Neighbor.Open.Capabilities {
			var c struct {
				Name     string   `json:"name"`
				Families []string `json:"families"`
			}
			if json.Unmarshal(raw, &c) != nil || c.Name != "multiprotocol" {
				continue
			}
			if t.offered[peer] == nil {
				t.offered[peer] = map[string][]AddressFamily{}
			}
			var fs []AddressFamily
			for _, f := range c.Families {
				fs = append(fs, exabgpFamilies[f])
			}
			t.offered[peer][e.Neighbor.Direction] = fs
		}
	case "update":
		u := e.Neighbor.Message.Update
		for family, nlris := range u.Withdraw {
			for _, raw := range nlris {
				_, key, err := exabgpNLRI(raw)
				if err != nil {
					return err
				}
				delete(t.have, peer+" "+family+" "+key)
			}
		}
		for family, hops := range u.Announce {
			for hop, nlris := range hops {
				for _, raw := range nlris {
					prefix, key, err := exabgpNLRI(raw)
					if err != nil {
						return err
					}
					r := Received{Family: exabgpFamilies[family], Raw: fmt.Sprintf("%s %s %s", family, hop, raw)}
					r.Err = setExaBGP(&r, e, hop, prefix, key)
					t.have[peer+" "+family+" "+key] = r
				}
			}
		}
	}
	return nil
}

// exabgpNLRI returns a unicast prefix, and what an NLRI is told apart by.
func exabgpNLRI(raw json.RawMessage) (prefix, key string, err error) {
	var n struct {
		NLRI   string `json:"nlri"`
		String string `json:"string"`
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return "", "", err
	}
	if n.NLRI == "" && n.String == "" {
		return "", "", fmt.Errorf("%s is no NLRI", raw)
	}
	return n.NLRI, n.NLRI + n.String, nil
}

func setExaBGP(r *Received, e exabgpEvent, hop, prefix, key string) (err error) {
	if r.From, err = parseAddr(e.Neighbor.Address.Peer); err != nil {
		return err
	}
	attribute := e.Neighbor.Message.Update.Attribute
	for _, c := range attribute.Community {
		r.Path.Communities = append(r.Path.Communities, c[0]<<16|c[1])
	}
	slices.Sort(r.Path.Communities)
	r.Path.Large, r.Path.MED = attribute.Large, someMetric(attribute.MED)
	if attribute.LocalPref != nil {
		r.Path.LocalPref = route.Some(*attribute.LocalPref)
	}
	if prefix != "" {
		if r.Path.NextHop, err = netip.ParseAddr(hop); err != nil {
			return err
		}
		r.Match.Destination, err = netip.ParsePrefix(prefix)
		return err
	}
	f := route.IPv4
	if r.Family == FlowSpec6 {
		f = route.IPv6
	}
	if r.Match, err = parseExaBGPFlow(key, f); err != nil {
		return err
	}
	var ec []byte
	for _, c := range attribute.Extended {
		ec = binary.BigEndian.AppendUint64(ec, c.Value)
		r.Raw += fmt.Sprintf(" %016x %q", c.Value, c.String)
	}
	r.Action, err = actionOf(ec, nil)
	return err
}

func (t *exabgpTable) routes() []Received {
	var out []Received
	for _, key := range slices.Sorted(maps.Keys(t.have)) {
		out = append(out, t.have[key])
	}
	return out
}

func (t *exabgpTable) negotiated(peer string) []AddressFamily {
	var out []AddressFamily
	for _, f := range AllFamilies() {
		if slices.Contains(t.offered[peer]["receive"], f) && slices.Contains(t.offered[peer]["send"], f) {
			out = append(out, f)
		}
	}
	return out
}

// Names that ExaBGP prints for values.
var (
	exabgpProtocols = map[string]int{
		"icmp": 1, "igmp": 2, "tcp": 6, "egp": 8, "udp": 17, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "ospf": 89, "ipip": 94, "pim": 103, "sctp": 132,
	}
	exabgpICMPTypes = map[string]int{
		"echo-reply": 0, "unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8, "router-advertisement": 9,
		"router-solicit": 10, "time-exceeded": 11, "parameter-problem": 12, "timestamp": 13, "timestamp-reply": 14, "info-request": 15,
		"info-reply": 16, "mask-request": 17, "mask-reply": 18, "traceroute": 30, "experimental-mobility": 41, "extended-echo-request": 42,
		"extended-echo-reply": 43, "experimental-one": 253, "experimental-two": 254,
	}
	exabgpFlags = map[string]int{
		"fin": 0x01, "syn": 0x02, "rst": 0x04, "push": 0x08, "ack": 0x10, "urg": 0x20, "ece": 0x40, "cwr": 0x80, "ns": 0x100,
		"dont-fragment": 0x01, "is-fragment": 0x02, "first-fragment": 0x04, "last-fragment": 0x08,
	}
	exabgpKinds = map[string]int{
		"protocol": 3, "next-header": 3, "port": 4, "destination-port": 5, "source-port": 6, "icmp-type": 7, "icmp-code": 8, "tcp-flags": 9,
		"packet-length": 10, "dscp": 11, "traffic-class": 11, "fragment": 12,
		"flow-label": 13,
	}
)

var exabgpUnknown = regexp.MustCompile(`unknown [a-z ]+ type (\d+)`)

// parseExaBGPFlow reads "flow destination-ipv4 192.0.2.1/32 protocol =udp port [ =53 >=1000&<=2000 ]".
func parseExaBGPFlow(text string, f route.Family) (route.Match, error) {
	var m route.Match
	w := strings.Fields(exabgpUnknown.ReplaceAllString(text, "$1"))
	if len(w) == 0 || w[0] != "flow" {
		return m, fmt.Errorf("%q is no flow", text)
	}
	for i := 1; i < len(w); {
		word := w[i]
		var values []string
		if i++; i < len(w) && w[i] == "[" {
			end := slices.Index(w[i:], "]")
			if end < 0 {
				return m, fmt.Errorf("%q has no end", text)
			}
			values = w[i+1 : i+end]
			i += end + 1
		} else if i < len(w) {
			values = w[i : i+1]
			i++
		}
		if err := setExaBGPComponent(&m, f, word, values); err != nil {
			return m, fmt.Errorf("%s %s: %w", word, strings.Join(values, " "), err)
		}
	}
	return route.Route{Match: m}.Canonical().Match, nil
}

func setExaBGPComponent(m *route.Match, f route.Family, word string, values []string) (err error) {
	if len(values) == 0 {
		return errors.New("no value")
	}
	switch word {
	case "destination-ipv4", "destination-ipv6":
		m.Destination, m.DestinationOffset, err = exabgpPrefix(values, f)
		return err
	case "source-ipv4", "source-ipv6":
		m.Source, m.SourceOffset, err = exabgpPrefix(values, f)
		return err
	}
	kind, ok := exabgpKinds[word]
	if !ok {
		return errors.New("the component is not known")
	}
	var items []wireItem
	for _, or := range values {
		for i, and := range strings.Split(or, "&") {
			x, err := exabgpItem(kind, and)
			if err != nil {
				return err
			}
			if i > 0 {
				x.op |= wireAnd
			}
			items = append(items, x)
		}
	}
	return setWire(m, kind, items)
}

// exabgpPrefix reads a prefix; one of IPv6 has its offset behind it: "2001:db8::/32/0".
func exabgpPrefix(values []string, f route.Family) (netip.Prefix, uint8, error) {
	text := values[0]
	if len(values) > 1 {
		return netip.Prefix{}, 0, errors.New("two prefixes")
	}
	if i := strings.LastIndexByte(text, '/'); f == route.IPv6 && i >= 0 {
		text = text[:i] + " offset " + text[i+1:]
	}
	return flowPrefix(text, " offset ", f)
}

// exabgpItem reads an operator's sign and its value: ">=1000", "!fin+rst".
func exabgpItem(kind int, text string) (wireItem, error) {
	flags := kind == 9 || kind == 12
	signs := []struct {
		sign string
		op   uint8
	}{{"!=", wireLess | wireMore}, {"<=", wireLess | wireEqual}, {">=", wireMore | wireEqual}, {"<", wireLess}, {">", wireMore}, {"=", wireEqual}}
	if flags {
		signs = signs[:0]
		for _, s := range []string{"!=", "!", "=", ""} {
			signs = append(signs, struct {
				sign string
				op   uint8
			}{s, map[string]uint8{"!=": wireNot | wireMatch, "!": wireNot, "=": wireMatch}[s]})
		}
	}
	for _, s := range signs {
		if rest, ok := strings.CutPrefix(text, s.sign); ok {
			v, err := exabgpValue(kind, rest, flags)
			return wireItem{s.op, v}, err
		}
	}
	return wireItem{}, fmt.Errorf("%q has no operator", text)
}

func exabgpValue(kind int, text string, flags bool) (int, error) {
	if flags {
		sum := 0
		for name := range strings.SplitSeq(text, "+") {
			v, ok := exabgpFlags[name]
			if !ok { // it has no name for
				n, err := strconv.ParseUint(name, 10, 12)
				if err != nil {
					return 0, fmt.Errorf("flag %q is not known", name)
				}
				v = int(n)
			}
			sum |= v
		}
		return sum, nil
	}
	names := map[int]map[string]int{3: exabgpProtocols, 7: exabgpICMPTypes}[kind]
	if v, ok := names[text]; ok {
		return v, nil
	}
	v, err := strconv.ParseUint(text, 10, 32)
	return int(v), err
}
