package lab

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// gobgpPath is a path as "gobgp -j global rib" prints it.
type gobgpPath struct {
	NLRI struct {
		Prefix string `json:"prefix"`
		Value  []struct {
			Type   int             `json:"type"`
			Offset int             `json:"offset"`
			Value  json.RawMessage `json:"value"`
		} `json:"value"`
	} `json:"nlri"`
	Attributes []struct {
		Type        int             `json:"type"`
		NextHop     string          `json:"nexthop"`
		Communities []uint32        `json:"communities"`
		Metric      uint32          `json:"metric"`
		Value       json.RawMessage `json:"value"`
	} `json:"attrs"`
	From string `json:"neighbor-ip"`
}

// parseGoBGP reads what "gobgp -j global rib" prints of one family.
func parseGoBGP(text string, family AddressFamily) ([]Received, error) {
	if s := strings.TrimSpace(text); s == "" || s == "Network not in table" {
		return nil, nil
	}
	var table map[string][]json.RawMessage
	if err := json.Unmarshal([]byte(text), &table); err != nil {
		return nil, fmt.Errorf("gobgp printed %.200q: %w", text, err)
	}
	var out []Received
	for key, paths := range table {
		for _, raw := range paths {
			r := Received{Family: family, Raw: key + " " + string(raw)}
			r.Err = setGoBGP(&r, raw)
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Received) int { return strings.Compare(a.Raw, b.Raw) })
	return out, nil
}

func setGoBGP(r *Received, raw []byte) error {
	var p gobgpPath
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	var err error
	if r.From, err = parseAddr(p.From); err != nil {
		return err
	}
	if p.NLRI.Prefix != "" {
		if r.Match.Destination, err = netip.ParsePrefix(p.NLRI.Prefix); err != nil {
			return err
		}
	}
	f := route.IPv4
	if r.Family == FlowSpec6 {
		f = route.IPv6
	}
	for _, c := range p.NLRI.Value {
		if err := setGoBGPComponent(&r.Match, f, c.Type, c.Offset, c.Value); err != nil {
			return fmt.Errorf("component type %d: %w", c.Type, err)
		}
	}
	r.Match = route.Route{Match: r.Match}.Canonical().Match
	var ec, ec6 []byte
	for _, a := range p.Attributes {
		switch a.Type {
		case 3, 14: // NEXT_HOP, MP_REACH_NLRI
			if r.Path.NextHop, err = parseAddr(a.NextHop); err != nil {
				return err
			}
		case 8: // COMMUNITIES
			r.Path.Communities = slices.Sorted(slices.Values(a.Communities))
		case 4: // MULTI_EXIT_DISC
			r.Path.MED = someMetric(a.Metric)
		case 5: // LOCAL_PREF
			var v uint32
			if err := json.Unmarshal(a.Value, &v); err != nil {
				return err
			}
			r.Path.LocalPref = route.Some(v)
		case 16: // EXTENDED COMMUNITIES
			if ec, err = gobgpCommunities(a.Value, 8); err != nil {
				return err
			}
		case 25: // IPv6 ADDRESS SPECIFIC EXTENDED COMMUNITIES
			if ec6, err = gobgpCommunities(a.Value, 20); err != nil {
				return err
			}
		case 32: // LARGE_COMMUNITY
			var all []struct{ ASN, LocalData1, LocalData2 uint32 }
			if err := json.Unmarshal(a.Value, &all); err != nil {
				return err
			}
			for _, c := range all {
				r.Path.Large = append(r.Path.Large, [3]uint32{c.ASN, c.LocalData1, c.LocalData2})
			}
		}
	}
	r.Action, err = actionOf(ec, ec6)
	return err
}

func setGoBGPComponent(m *route.Match, f route.Family, kind, offset int, raw json.RawMessage) (err error) {
	if kind <= 2 {
		var v struct {
			Prefix string `json:"prefix"`
		}
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		text := fmt.Sprintf("%s/off %d", v.Prefix, offset)
		if kind == 1 {
			m.Destination, m.DestinationOffset, err = flowPrefix(text, "/off ", f)
		} else {
			m.Source, m.SourceOffset, err = flowPrefix(text, "/off ", f)
		}
		return err
	}
	var v []struct {
		Op    uint8 `json:"op"`
		Value int   `json:"value"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	items := make([]wireItem, len(v))
	for i, x := range v {
		items[i] = wireItem{x.Op, x.Value}
	}
	return setWire(m, kind, items)
}

// gobgpCommunities reads extended communities of a size in octets: GoBGP prints those it knows in fields and others as
// their octets.
func gobgpCommunities(raw json.RawMessage, size int) (out []byte, err error) {
	var list []struct {
		Type     uint8           `json:"type"`
		Subtype  uint8           `json:"subtype"`
		AS       uint16          `json:"as"`
		Rate     float32         `json:"rate"`
		Terminal bool            `json:"terminal"`
		Sample   bool            `json:"sample"`
		Value    json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	for _, c := range list {
		b := make([]byte, size)
		b[0], b[1] = c.Type, c.Subtype
		var text string
		if len(c.Value) > 0 && c.Value[0] == '"' {
			if err := json.Unmarshal(c.Value, &text); err != nil {
				return nil, err
			}
		}
		switch kind := [2]uint8{c.Type, c.Subtype}; kind {
		case [2]uint8{0x80, 0x06}:
			binary.BigEndian.PutUint16(b[2:], c.AS)
			binary.BigEndian.PutUint32(b[4:], math.Float32bits(c.Rate))
		case [2]uint8{0x80, 0x07}:
			if c.Terminal { // the bit has this name, and says the opposite
				b[7] |= 1
			}
			if c.Sample {
				b[7] |= 2
			}
		case [2]uint8{0x80, 0x09}:
			err = json.Unmarshal(c.Value, &b[7])
		case [2]uint8{0x80, 0x08}, [2]uint8{0x81, 0x08}, [2]uint8{0x82, 0x08}, [2]uint8{0x01, 0x0c}, [2]uint8{0x00, 0x0c}:
			err = gobgpTarget(b[2:], text)
		default:
			var octets []byte
			octets, err = base64.StdEncoding.DecodeString(text)
			if err == nil && (len(octets) != size-1 || octets[0] != c.Subtype) {
				err = errors.New("not its octets")
			}
			if err == nil {
				copy(b[1:], octets)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("extended community %s is not understood: %w", raw, err)
		}
		out = append(out, b...)
	}
	return out, nil
}

// gobgpTarget reads "64500:100", "64086.59904:100", "192.0.2.9:100" or "2001:db8::9:1" into the value of a community.
func gobgpTarget(b []byte, text string) error {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return fmt.Errorf("%q has no colon", text)
	}
	local, err := strconv.ParseUint(text[i+1:], 10, 32)
	if err != nil {
		return err
	}
	if a, err := netip.ParseAddr(text[:i]); err == nil {
		n := copy(b, a.AsSlice())
		if n+2 != len(b) || local > 0xffff {
			return fmt.Errorf("%q does not fit", text)
		}
		binary.BigEndian.PutUint16(b[n:], uint16(local))
		return nil
	}
	high, low, dotted := strings.Cut(text[:i], ".")
	h, err1 := strconv.ParseUint(high, 10, 16)
	l, err2 := strconv.ParseUint(low, 10, 16)
	switch {
	case err1 != nil || dotted && (err2 != nil || local > 0xffff):
		return fmt.Errorf("%q is no target", text)
	case dotted:
		binary.BigEndian.PutUint16(b, uint16(h))
		binary.BigEndian.PutUint16(b[2:], uint16(l))
		binary.BigEndian.PutUint16(b[4:], uint16(local))
	default:
		binary.BigEndian.PutUint16(b, uint16(h))
		binary.BigEndian.PutUint32(b[2:], uint32(local))
	}
	return nil
}

// someMetric is a MED as routers show it: 0 also where there is none.
func someMetric(v uint32) route.Optional {
	if v == 0 {
		return 0
	}
	return route.Some(v)
}
