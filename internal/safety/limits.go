package safety

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Limits is what an operator may tighten or loosen. The zero value refuses everything; start from Defaults.
type Limits struct {
	Own   []netip.Prefix // what we may announce routes for; a prefix and not the sum of two must cover a destination
	Never []netip.Prefix // routers, management, resolvers, time servers: no automatic route overlaps them

	MaxRules          int // routes at any time
	MaxNewPerMinute   int // routes created within any minute
	MaxRulesPerTarget int // routes with the same destination, or source where there is none
	MaxRulesPerOwner  int // routes of one mitigation
	// MaxRulesPerResponse bounds the routes that one response of the policy answered with, MaxRulesPerGroup those for targets
	// in one group of it, narrower groups included.
	MaxRulesPerResponse, MaxRulesPerGroup int
	MaxAge                                time.Duration

	// The shortest prefixes an approver may blackhole. Anyone else blackholes hosts.
	BlackholeMinLength4, BlackholeMinLength6 int
	// The shortest source prefixes an approver may use in a rule without a destination.
	SourceMinLength4, SourceMinLength6 int

	// MaxOwnShare is the part of our own address space, per family, that may be cut off at one time (see the package's
	// comment); 0 to 1.
	MaxOwnShare float64
	// SecondPersonAbove is how many of our hosts (see [Reach]) an engineer's route may reach without a second person's approval;
	// 0 never asks. It limits who announces, not what may be: the kernel does not check it.
	SecondPersonAbove uint64

	// Where traffic may be sent: by a redirect into a VRF, and by a redirect, a copy or the next hop of a blackhole. Nowhere
	// where they are empty.
	RedirectTargets   []route.RouteTarget
	RedirectAddresses []netip.Prefix
	// AutomaticActions are the words of route.ActionWords that routes of automation may say.
	AutomaticActions []string
	// AllowSourceBlackhole lets an approver blackhole hosts that are not ours as sources.
	AllowSourceBlackhole bool

	// Dangerous values need one of these besides.
	AllowWideBlackhole bool // BlackholeMinLength below 24 or 48, SourceMinLength below 16 or 32
	AllowLongAge       bool // MaxAge above 7 days
	AllowLargeShare    bool // MaxOwnShare above 0.25
}

// Bounds no key loosens.
const (
	minOwn4, minOwn6             = 8, 16  // shortest own prefixes
	minBlackhole4, minBlackhole6 = 16, 32 // shortest floors for blackholes
	minSource4, minSource6       = 8, 16  // shortest floors for sources
	maxRules                     = 100_000
	maxAge                       = 90 * 24 * time.Hour
)

// Beyond these a value is dangerous.
const (
	safeBlackhole4, safeBlackhole6 = 24, 48
	safeSource4, safeSource6       = 16, 32
	safeAge                        = 7 * 24 * time.Hour
	safeShare                      = 0.25
)

// clockSkew is how far in the future Created may lie: the clocks of a controller and of a speaker differ.
const clockSkew = time.Minute

// Defaults returns the limits where the operator says nothing. Own stays empty: nobody else knows it.
func Defaults() Limits {
	return Limits{
		MaxRules:            1000,
		MaxNewPerMinute:     120,
		MaxRulesPerTarget:   16,
		MaxRulesPerOwner:    32,
		MaxRulesPerResponse: 500,
		MaxRulesPerGroup:    500,
		MaxAge:              24 * time.Hour,
		BlackholeMinLength4: safeBlackhole4,
		BlackholeMinLength6: safeBlackhole6,
		SourceMinLength4:    24,
		SourceMinLength6:    48,
		MaxOwnShare:         0.05,
		AutomaticActions:    []string{"rate-limit", "discard", "blackhole"},
		SecondPersonAbove:   256,
	}
}

// Validate reports everything that makes the limits useless or dangerous, in the words of the configuration.
func (l Limits) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if len(l.Own) == 0 {
		bad("own prefixes: none given: name the prefixes we may announce routes for")
	}
	for _, p := range l.Own {
		checkPrefix(bad, "own prefixes", p)
		if least := pick(p, minOwn4, minOwn6); p.IsValid() && p.Bits() < least {
			bad("own prefixes: %s is shorter than /%d: name what is really ours", p, least)
		}
	}
	for _, p := range l.Never {
		checkPrefix(bad, "never prefixes", p)
	}

	for _, p := range l.RedirectAddresses {
		checkPrefix(bad, "redirect addresses", p)
	}
	for _, w := range l.AutomaticActions {
		if !slices.Contains(route.ActionWords(), w) {
			bad("automatic actions: %q is not one of %s", w, strings.Join(route.ActionWords(), ", "))
		}
		if w == "source-blackhole" {
			bad("automatic actions: source-blackhole is never automatic: an approver asks for each")
		}
	}

	for _, q := range []struct {
		name  string
		value int
	}{
		{"max rules", l.MaxRules},
		{"max new rules per minute", l.MaxNewPerMinute},
		{"max rules per target", l.MaxRulesPerTarget},
		{"max rules per owner", l.MaxRulesPerOwner},
		{"max rules per response", l.MaxRulesPerResponse},
		{"max rules per group", l.MaxRulesPerGroup},
	} {
		if q.value < 1 || q.value > maxRules {
			bad("%s: %d is outside 1 to %d", q.name, q.value, maxRules)
		}
	}

	switch {
	case l.MaxAge < time.Second || l.MaxAge > maxAge:
		bad("max age: %s is outside 1s to %s", l.MaxAge, maxAge)
	case l.MaxAge > safeAge && !l.AllowLongAge:
		bad("max age: %s is above %s: set \"allow long age\" too if you mean it", l.MaxAge, safeAge)
	}

	for _, f := range []struct {
		name                    string
		value, least, safe, top int
	}{
		{"blackhole min length (IPv4)", l.BlackholeMinLength4, minBlackhole4, safeBlackhole4, 32},
		{"blackhole min length (IPv6)", l.BlackholeMinLength6, minBlackhole6, safeBlackhole6, 128},
		{"source min length (IPv4)", l.SourceMinLength4, minSource4, safeSource4, 32},
		{"source min length (IPv6)", l.SourceMinLength6, minSource6, safeSource6, 128},
	} {
		switch {
		case f.value < f.least || f.value > f.top:
			bad("%s: %d is outside %d to %d", f.name, f.value, f.least, f.top)
		case f.value < f.safe && !l.AllowWideBlackhole:
			bad("%s: %d is below %d: set \"allow wide blackhole\" too if you mean it", f.name, f.value, f.safe)
		}
	}

	switch {
	case !(l.MaxOwnShare > 0 && l.MaxOwnShare <= 1): // so that NaN is caught
		bad("max own share: %g is not above 0 and at most 1", l.MaxOwnShare)
	case l.MaxOwnShare > safeShare && !l.AllowLargeShare:
		bad("max own share: %g is above %g: set \"allow large share\" too if you mean it", l.MaxOwnShare, safeShare)
	}
	return errors.Join(errs...)
}

func checkPrefix(bad func(string, ...any), key string, p netip.Prefix) {
	switch {
	case !p.IsValid():
		bad("%s: an entry is not a prefix", key)
	case p.Addr().Is4In6():
		bad("%s: %s is IPv4-mapped: write it as IPv4", key, p)
	case p != p.Masked():
		bad("%s: %s has bits beyond its length: meant is %s or a longer prefix", key, p, p.Masked())
	}
}

// pick returns the number for the family of p.
func pick(p netip.Prefix, v4, v6 int) int {
	if p.Addr().Is6() {
		return v6
	}
	return v4
}

// floor returns a configured floor for the family of p; one outside its hard bounds counts as a host, so that limits
// nobody validated refuse rather than allow.
func floor(p netip.Prefix, v4, v6, hard4, hard6 int) int {
	value, hard := pick(p, v4, v6), pick(p, hard4, hard6)
	if value < hard || value > p.Addr().BitLen() {
		return p.Addr().BitLen()
	}
	return value
}
