package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// How the values of a policy are written: numbers, vectors, actions, times.

// expression is CEL; it is compiled when the file is checked.
func expression(typ string) document.Codec[string] {
	c := document.Text(1, maxExpression)
	c.Type = typ
	return c
}

func version() document.Codec[int] {
	c := document.Number(0, 1<<30)
	c.Type = "number"
	c.JSON = map[string]any{"const": Version}
	number := c.Parse
	c.Parse = func(s string) (int, error) {
		v, err := number(s)
		if err == nil && v != Version {
			return 0, document.Wrong(c.Format(Version), "version %d is not known to this program", v)
		}
		return v, err
	}
	return c
}

// orNone lets a limit be written as none, which is 0.
func orNone(c document.Codec[float64]) document.Codec[float64] {
	parse, format := c.Parse, c.Format
	c.Type += ", or none"
	c.JSON = map[string]any{"anyOf": []any{c.JSON, map[string]any{"const": "none"}}}
	c.Parse = func(s string) (float64, error) {
		if s == "none" {
			return 0, nil
		}
		v, err := parse(s)
		if err != nil && isZero(s) {
			return 0, document.Wrong("none", "%q would make every packet an attack", s)
		}
		return v, err
	}
	c.Format = func(v float64) string {
		if v == 0 {
			return "none"
		}
		return format(v)
	}
	return c
}

// offOr lets a number be written as none, which is 0.
func offOr(c document.Codec[float64]) document.Codec[float64] {
	parse, format := c.Parse, c.Format
	c.Type += ", or none"
	c.JSON = map[string]any{"anyOf": []any{c.JSON, map[string]any{"const": "none"}}}
	c.Parse = func(s string) (float64, error) {
		if s == "none" {
			return 0, nil
		}
		return parse(s)
	}
	c.Format = func(v float64) string {
		if v == 0 {
			return "none"
		}
		return format(v)
	}
	return c
}

// multiple is a factor such as 2x or 1.5x.
func multiple(minimum, maximum float64) document.Codec[float64] {
	format := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) + "x" }
	return document.Codec[float64]{
		Type: fmt.Sprintf("multiple, %s to %s", format(minimum), format(maximum)),
		Parse: func(s string) (float64, error) {
			number, ok := strings.CutSuffix(s, "x")
			v, err := parseNumber(number)
			switch {
			case err != nil:
				return 0, fmt.Errorf("%.20q is not a multiple such as 2x", s)
			case !ok:
				return 0, document.Wrong(s+"x", "%q is not a multiple such as 2x", s)
			case v < minimum || v > maximum:
				return 0, fmt.Errorf("%s is not from %s to %s", s, format(minimum), format(maximum))
			}
			return v, nil
		},
		Format: format,
		JSON:   document.Pattern(`[0-9]+(\.[0-9]{1,2})?x`),
	}
}

// spoofed is a number of sources a second, such as 100/s.
func spoofed() document.Codec[float64] {
	return document.Codec[float64]{
		Type: "sources per second such as 100/s",
		Parse: func(s string) (float64, error) {
			number, ok := strings.CutSuffix(s, "/s")
			v, err := parseNumber(strings.TrimSpace(number))
			switch {
			case err != nil:
				return 0, fmt.Errorf("%.20q is not a number of sources per second such as 100/s", s)
			case !ok:
				return 0, document.Wrong(s+"/s", "%q is not a number of sources per second", s)
			case v < 1 || v > 1e9:
				return 0, fmt.Errorf("%s is not from 1/s to 1000000000/s", s)
			}
			return v, nil
		},
		Format: func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) + "/s" },
		JSON:   document.Pattern(`[0-9]+(\.[0-9]{1,2})? */s`),
	}
}

// parseNumber reads digits with at most two decimals.
func parseNumber(s string) (float64, error) {
	if whole, decimals, _ := strings.Cut(s, "."); whole == "" || len(decimals) > 2 || strings.Trim(s, "0123456789.") != "" || strings.HasSuffix(s, ".") {
		return 0, errors.New("is no number")
	}
	return strconv.ParseFloat(s, 64)
}

// isZero reports whether a rate is written as a zero, with or without a unit.
func isZero(s string) bool {
	number := strings.TrimRight(s, " bpskMGT")
	return number != "" && strings.Trim(number, "0.") == ""
}

// selector is a word that names vectors.
type selector struct {
	word string
	ids  []vector.ID
}

// The words that name several vectors at once.
const (
	allVectors    = "all"
	allReflection = "all-reflection" // but those whose ports carry bulk traffic
	allShared     = "all-shared-reflection"
	allTCP        = "all-tcp"
	allICMP       = "all-icmp"
)

func selectors() document.Codec[selector] {
	var all, reflection, shared, tcp, icmp []vector.ID
	for _, v := range vector.All() {
		all = append(all, v.ID)
		switch {
		case v.Carries:
			shared = append(shared, v.ID)
		case v.Reflection():
			reflection = append(reflection, v.ID)
		}
		if v.ICMP() {
			icmp = append(icmp, v.ID)
		}
		if v.Protocol == 6 {
			tcp = append(tcp, v.ID)
		}
	}
	words := map[string][]vector.ID{allVectors: all, allReflection: reflection, allTCP: tcp, allICMP: icmp, allShared: shared}
	known := append(vector.Names(), allVectors, allReflection, allShared, allTCP, allICMP)
	return document.Codec[selector]{
		Type: "vector",
		Parse: func(s string) (selector, error) {
			if ids, ok := words[s]; ok {
				return selector{s, ids}, nil
			}
			id, err := vector.Parse(s)
			if err == nil {
				return selector{s, []vector.ID{id}}, nil
			}
			if near := nearestVector(s, known); near != "" {
				return selector{}, document.Wrong(near, "%q is not a vector", s)
			}
			return selector{}, fmt.Errorf("%q is not a vector; known are %s", s, strings.Join(known, ", "))
		},
		Format: func(s selector) string { return s.word },
		JSON:   map[string]any{"enum": known},
	}
}

// nearestVector also knows the short names people use: dns for dns-amplification.
func nearestVector(s string, known []string) string {
	for _, suffix := range []string{"-amplification", "-reflection"} {
		long := strings.TrimSuffix(strings.ToLower(s), suffix) + "-amplification"
		if slices.Contains(known, long) {
			return long
		}
	}
	if s == "reflection" || s == "amplification" {
		return allReflection
	}
	if strings.EqualFold(s, "udp") {
		return vector.UDPOther.String()
	}
	if strings.EqualFold(s, "tcp") {
		return allTCP
	}
	return document.Nearest(s, known)
}

// action is what a response does; the zero Kind observes.
type action struct {
	route.Action
	notify bool
}

func actions() document.Codec[action] {
	pps, bps := document.PPS(), document.BPS()
	words := []string{"observe", "notify", "rate-limit", "discard", "blackhole", "mark", "redirect"}
	return document.Codec[action]{
		Type: "observe, notify, rate-limit RATE, discard, blackhole, mark DSCP or redirect TO",
		Parse: func(s string) (action, error) {
			word, rest, _ := strings.Cut(s, " ")
			rest = strings.TrimSpace(rest)
			switch word {
			case "observe", "notify", "discard", "blackhole":
				if rest != "" && word == "blackhole" {
					return action{}, document.Wrong(word, "%q: a policy blackholes the one host that is attacked, never a network; an approver can do that by hand", s)
				}
				if rest != "" {
					return action{}, document.Wrong(word, "%q: %s stands alone", s, word)
				}
				return action{route.Action{Kind: map[string]route.ActionKind{"discard": route.Discard, "blackhole": route.Blackhole}[word]}, word == "notify"}, nil
			case "rate-limit":
				return parseRateLimit(s, rest, pps, bps)
			case "mark", "redirect":
				return parseSteering(s)
			}
			if near := document.Nearest(word, words); near != "" {
				return action{}, document.Wrong(strings.TrimSpace(near+" "+rest), "%q is not an action", s)
			}
			switch word {
			case "drop", "deny", "block":
				return action{}, document.Wrong("discard", "%q is not an action", s)
			case "rtbh", "null-route", "nullroute":
				return action{}, document.Wrong("blackhole", "%q is not an action", s)
			case "none", "nothing", "ignore":
				return action{}, document.Wrong("observe", "%q is not an action", s)
			case "alert", "page", "call", "ask":
				return action{}, document.Wrong("notify", "%q is not an action", s)
			case "limit", "rate", "police", "throttle":
				return action{}, document.Wrong(strings.TrimSpace("rate-limit "+rest), "%q is not an action", s)
			}
			return action{}, fmt.Errorf("%q is not an action; known are observe, notify, rate-limit RATE, discard, blackhole, mark DSCP, redirect TO", s)
		},
		Format: formatAction,
		JSON:   document.Pattern(`observe|notify|discard|blackhole|rate-limit +[0-9]+(\.[0-9]+)? *([kMG]?pps|[kMGT]?bps)|(mark|redirect) +[0-9a-fA-F.:]+.*`),
	}
}

func parseRateLimit(s, rest string, pps, bps document.Codec[float64]) (action, error) {
	if rest == "" {
		return action{}, document.Wrong("rate-limit 1 Mbps", "%q says no rate", s)
	}
	kind, c := route.RateBytes, bps
	if strings.HasSuffix(strings.ToLower(rest), "pps") {
		kind, c = route.RatePackets, pps
	}
	v, err := c.Parse(rest)
	if isZero(rest) {
		return action{}, document.Wrong("discard", "%q lets nothing through", s)
	}
	if err != nil {
		return action{}, fmt.Errorf("rate-limit: %w", err)
	}
	rate := uint64(v)
	if kind == route.RateBytes {
		if rate%8 != 0 {
			return action{}, fmt.Errorf("%q is not a whole number of octets per second, which is what a router is told", s)
		}
		rate /= 8
	}
	if rate > route.MaxRate {
		return action{}, fmt.Errorf("%q is more than any interface carries", s)
	}
	return action{Action: route.Action{Kind: kind, Rate: rate}}, nil
}

// parseSteering reads an action that sends packets elsewhere, or marks them, as docs/routes.md writes it.
func parseSteering(s string) (action, error) {
	a, err := route.ParseAction(s)
	switch {
	case err != nil:
		return action{}, err
	case a.Kind != route.Accept || a.Attributes != (route.Attributes{}) || a.Sample || a.Continue:
		return action{}, fmt.Errorf("%q: a policy marks or redirects, and says no more of it", s)
	}
	return action{a, false}, nil
}

func formatAction(a action) string {
	switch a.Kind {
	case route.Accept:
		return a.Action.String()
	case route.RateBytes:
		return "rate-limit " + document.BPS().Format(float64(a.Rate*8))
	case route.RatePackets:
		return "rate-limit " + document.PPS().Format(float64(a.Rate))
	case route.Discard, route.Blackhole:
		return a.Kind.String()
	}
	if a.notify {
		return "notify"
	}
	return "observe"
}

func moment() document.Codec[time.Time] {
	return document.Codec[time.Time]{
		Type: "time such as 2026-12-31T18:00:00Z",
		Parse: func(s string) (time.Time, error) {
			t, err := time.Parse(time.RFC3339, s)
			if err != nil {
				if d, derr := time.Parse(time.DateOnly, s); derr == nil {
					return t, document.Wrong(d.Format(time.RFC3339), "%q has no time of day", s)
				}
				return t, errors.New("is not a time with its zone, such as 2026-12-31T18:00:00Z")
			}
			return t, nil
		},
		Format: func(t time.Time) string { return t.Format(time.RFC3339Nano) },
	}
}
