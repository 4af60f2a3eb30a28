package main

import (
	"errors"
	"fmt"
)

// report is what one attack showed. Times are milliseconds from the attack's first packet at the edge router.
type report struct {
	Vector string `json:"vector"`
	Family string `json:"family"`
	Target string `json:"target"`

	// The sensor's kernel raised the trigger; the controller recognised the incident; the BGP UPDATE was at BIRD; the
	// flood to the rack had fallen to what the rule lets through.
	FirstPacketToTrigger  float64 `json:"first_packet_to_trigger_ms"`
	FirstPacketToDecision float64 `json:"first_packet_to_decision_ms"`
	FirstPacketToUpdate   float64 `json:"first_packet_to_update_at_router_ms"`
	FirstPacketToDrop     float64 `json:"first_packet_to_drop_ms"`

	// Attack packets per second that arrive at the edge, before the rule is applied to them, and that it lets through to
	// the rack, from the drop to the attack's end. What reached the rack until the drop is less than the first where the
	// machine is too slow to forward it all; that is no merit of the rule and does not count as cut.
	PPSBefore  float64 `json:"attack_pps_before"`
	PPSAfter   float64 `json:"attack_pps_after"`
	RackBefore float64 `json:"attack_pps_at_rack_before"`
	Sent       uint64  `json:"attack_packets_sent"`

	// Questions of the legitimate client that were not answered within 500 ms: before the attack, from its first packet
	// to its last, and after that.
	LossBefore float64 `json:"legit_loss_percent_before"`
	LossDuring float64 `json:"legit_loss_percent_during"`
	LossAfter  float64 `json:"legit_loss_percent_after"`

	Route string `json:"route"`
	// Both routers lost the rule at its deadline; how much later the later one did.
	Withdrawn         bool    `json:"withdrawn_at_deadline"`
	WithdrawnAfter    float64 `json:"withdrawn_after_deadline_ms"`
	UpdateAtSecond    float64 `json:"first_packet_to_update_at_second_router_ms"`
	RuleAtRouter      string  `json:"route_as_bird_shows_it"`
	RuleAtSecond      string  `json:"route_as_frr_shows_it"`
	DroppedByRule     uint64  `json:"packets_dropped_by_rule"`
	ClientAsked       int     `json:"legit_questions_during"`
	ClientMedianMilli float64 `json:"legit_median_answer_during_ms"`
}

// leastCut is the share of the flood that a rule has to take away.
const leastCut = 0.99

// check says what of it is not as it should be.
func (r report) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(r.Vector+" over "+r.Family+": "+format, args...))
	}
	if r.FirstPacketToUpdate <= 0 {
		bad("the router did not get the route")
	}
	if r.PPSBefore <= 0 || r.PPSAfter > r.PPSBefore*(1-leastCut) {
		bad("the flood was cut from %.0f to %.0f packets per second, that is by %.2f %%, not by %.0f %%", r.PPSBefore, r.PPSAfter, 100*(1-r.PPSAfter/r.PPSBefore), 100*leastCut)
	}
	if !r.Withdrawn {
		bad("the route was not withdrawn at its deadline: it went %.0f ms after it", r.WithdrawnAfter)
	}
	return errors.Join(errs...)
}
