package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
)

// Step is one step of a ladder. Exactly one of Observe, Notify and Action says what it does.
type Step struct {
	// Name is what the operator calls the step, or else what it does: rate-limit 1 Mbps.
	Name string
	// Path is where the step stands in the policy, such as responses[0].ladder[1].
	Path string

	// Observe announces nothing; Notify announces nothing and asks a person to look.
	Observe, Notify bool
	// Action is what routers are told to do; the zero Action with Observe and Notify.
	Action route.Action
	// Scope names the routers that are told; empty: all.
	Scope []string

	// After is how long the step before must have been in effect before this one may be taken; of the first step, how long
	// the incident must have lasted. 0 is at once.
	After time.Duration
	// If must hold before the step is taken; nil holds always. It holds only on what was measured.
	If *Condition
	// MaxCollateral is the share, 0 to 1, of the target's normal traffic that the match may be predicted to hit for the
	// step to be taken by automation; negative: no cap.
	MaxCollateral float64
	// Approvals is how many persons must approve before the step is taken, 0 to 2.
	Approvals int

	// TTL is how long an announcement of the step lives, Extend what one extension adds while evidence lasts (0 never
	// extends), and MaxAge the age it may not exceed. All are 0 where nothing is announced.
	TTL, Extend, MaxAge time.Duration
	// DownAfter is how long the attack must be measured to be over before the ladder steps down from here; 0: it does not,
	// and the announcement ends with its deadline.
	DownAfter time.Duration
	// Probe is how much is let through, in octets per second, when there is nothing milder to come down to from a step that lets
	// nothing through.
	Probe uint64
}

// Announces reports whether the step tells routers anything.
func (s Step) Announces() bool { return s.Action.Kind != 0 }

// Does says what the step does, in the words of the policy.
func (s Step) Does() string { return formatAction(action{s.Action, s.Notify}) }

// String says when the step is taken, and what it does.
func (s Step) String() string {
	var when, how []string
	if s.After > 0 {
		when = append(when, "after "+document.FormatDuration(s.After))
	}
	if s.If != nil {
		when = append(when, "if "+s.If.String())
	}
	if s.Approvals > 0 {
		how = append(how, fmt.Sprintf("approved by %d", s.Approvals))
	}
	if len(s.Scope) > 0 {
		how = append(how, "at "+strings.Join(s.Scope, ", "))
	}
	if s.MaxCollateral >= 0 {
		how = append(how, "collateral at most "+share.Format(s.MaxCollateral))
	}
	if s.DownAfter > 0 {
		how = append(how, "down after "+document.FormatDuration(s.DownAfter))
	}
	says := s.Does()
	if s.Name != says {
		says = s.Name + ": " + says
	}
	if len(when) > 0 {
		says = strings.Join(when, " and ") + ", " + says
	}
	if len(how) > 0 {
		says += " (" + strings.Join(how, ", ") + ")"
	}
	return says
}

// Next is what a ladder does next.
type Next struct {
	// Step is the index of the step to be in effect, -1 for none: the one asked about, or the one after it.
	Step int
	// Climbs means that Step is a new one, and Approvals how many persons must approve it first.
	Climbs    bool
	Approvals int
	// Why says why, or why not.
	Why string
}

// Climb says whether the step after at may be taken; at is -1 when none was taken yet, and the evidence's age is then that of
// the incident. Collateral is the share of the target's normal traffic that the match is predicted to hit, negative when it
// is not known. The error says what could not be computed; then the ladder stays.
func (r Response) Climb(at int, e Evidence, collateral float64) (Next, error) {
	stay := func(format string, args ...any) Next { return Next{Step: at, Why: fmt.Sprintf(format, args...)} }
	if at+1 >= len(r.Steps) {
		return stay("it is the last step"), nil
	}
	s := r.Steps[at+1]
	if e.Age < s.After {
		return stay("%s is for after %s; it is %s", s.Name, document.FormatDuration(s.After), document.FormatDuration(e.Age)), nil
	}
	switch holds, err := s.If.Eval(e); {
	case err != nil:
		return stay("%s.if: %v", s.Path, err), fmt.Errorf("%s.if: %w", s.Path, err)
	case !holds && !e.Measured:
		return stay("%s does not hold for %s: nothing is measured", s.If, s.Name), nil
	case !holds:
		return stay("%s does not hold for %s", s.If, s.Name), nil
	}
	if s.MaxCollateral >= 0 && !(collateral >= 0 && collateral <= s.MaxCollateral) {
		if collateral < 0 {
			return stay("%s may hit at most %s of normal traffic, and what it hits is not known", s.Name, share.Format(s.MaxCollateral)), nil
		}
		return stay("%s may hit at most %s of normal traffic, and is predicted to hit %.2f %%", s.Name, share.Format(s.MaxCollateral), collateral*100), nil
	}
	why := s.Path + " is the first step"
	if at >= 0 {
		why = fmt.Sprintf("%s follows %s", s.Path, r.Steps[at].Name)
	}
	if s.If != nil {
		why += ", as " + s.If.String()
	}
	return Next{Step: at + 1, Climbs: true, Approvals: s.Approvals, Why: why}, nil
}

// Evidence is what was measured about an answer to an attack while a step of its ladder is in effect.
type Evidence struct {
	// Measured means that sensors saw the target's traffic before and after, and none that saw the attack was silent since.
	// Where it is false, Before, After, Reduction, PPS, BPS and LegitimateDrop are not known, whatever they hold, and what a
	// condition says about them does not hold.
	Measured bool
	// Before and After are the packets per second of the attacked vector before the step took effect and now, Reduction
	// the share by which they fell, 0 (not at all) to 1.
	Before, After, Reduction float64
	// PPS and BPS are what sensors see of the vector now, per second.
	PPS, BPS float64
	// Age is how long the step has been in effect.
	Age time.Duration
	// LegitimateDrop is the share, 0 to 1, by which the target's other traffic fell since.
	LegitimateDrop float64
	// Installed is how many of Routers routers are known to have the step's routes installed.
	Installed, Routers int
}

// Condition is an expression over evidence.
type Condition struct{ is *predicate }

// String is the expression as it was written.
func (c *Condition) String() string {
	if c == nil {
		return ""
	}
	return c.is.text
}

// Eval reports whether the condition holds; a nil Condition does. It does not hold when it depends on something that was
// not measured. The error says what the expression cannot be computed from; the condition does not hold then.
func (c *Condition) Eval(e Evidence) (bool, error) {
	if c == nil {
		return true, nil
	}
	if e.Measured {
		if err := finite(e.Before, e.After, e.Reduction, e.PPS, e.BPS, e.LegitimateDrop); err != nil {
			return false, fmt.Errorf("condition %q: %w", c.is.text, err)
		}
	}
	holds, _, err := c.is.eval(e.variable)
	if err != nil {
		return false, fmt.Errorf("condition %w", err)
	}
	return holds, nil
}

var evidenceNames = []name{
	{"evidence.measured", cel.BoolType, "whether sensors saw before and after; where not, what depends on the six below does not hold"},
	{"evidence.before", cel.DoubleType, "packets per second of the vector before the step took effect"},
	{"evidence.after", cel.DoubleType, "packets per second of the vector now"},
	{"evidence.reduction", cel.DoubleType, "the share by which they fell, 0.0 to 1.0"},
	{"evidence.pps", cel.DoubleType, "packets per second of the vector that sensors see now"},
	{"evidence.bps", cel.DoubleType, "bits per second of the vector that sensors see now"},
	{"evidence.legitimate_drop", cel.DoubleType, "the share by which the target's other traffic fell, 0.0 to 1.0"},
	{"evidence.age", cel.DurationType, "how long the step has been in effect, such as duration(\"5m\")"},
	{"evidence.installed", cel.IntType, "how many routers have the step's routes: those that say so where they are asked (probe), and those they were sent to elsewhere"},
	{"evidence.routers", cel.IntType, "of how many routers that are told; 0 where the speaker does not answer"},
}

func (e Evidence) variable(name string) (any, bool) {
	switch name {
	case "evidence.measured":
		return types.Bool(e.Measured), true
	case "evidence.age":
		return types.Duration{Duration: e.Age}, true
	case "evidence.installed":
		return types.Int(e.Installed), true
	case "evidence.routers":
		return types.Int(e.Routers), true
	}
	if !e.Measured {
		return notKnown(name), true
	}
	switch name {
	case "evidence.before":
		return types.Double(e.Before), true
	case "evidence.after":
		return types.Double(e.After), true
	case "evidence.reduction":
		return types.Double(e.Reduction), true
	case "evidence.pps":
		return types.Double(e.PPS), true
	case "evidence.bps":
		return types.Double(e.BPS), true
	case "evidence.legitimate_drop":
		return types.Double(e.LegitimateDrop), true
	}
	return nil, false
}

// ParseCondition reads an expression over evidence, such as evidence.reduction < 0.9.
func ParseCondition(text string) (*Condition, error) {
	return newLanguage(evidenceNames).condition(text)
}

func (l *language) condition(text string) (*Condition, error) {
	p, err := l.predicate(text)
	if err != nil {
		return nil, err
	}
	return &Condition{p}, nil
}
