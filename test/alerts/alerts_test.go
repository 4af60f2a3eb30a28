// Package alerts has Prometheus' own promtool run the alerts we ship: each of them fires when it should, says what an operator needs,
// and is quiet when all is well.
package alerts

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

const rulesFile = "../../deploy/prometheus/trafficmonitor.rules.yaml"

// rule is one of the shipped ones.
type rule struct {
	Alert       string
	Labels      map[string]string
	Annotations map[string]string
}

func rules(t *testing.T) map[string]rule {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Rules []rule }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	all := map[string]rule{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			all[r.Alert] = r
		}
	}
	return all
}

// What a series says in the two hours before it is looked at, a value each minute.
const (
	zero  = "0x120"
	one   = "1x120"
	two   = "2x120"
	first = "0x118 1x2" // a counter's first event, a moment ago
	stops = "0+100x90 9000x30"
	runs  = "0+100x120"
	never = "stale"
)

// series are by name and labels; a daemon's instance is a when nothing else is said.
type series map[string]string

// firing is an alert that fires: its labels beside the severity, and the value in its text.
type firing struct {
	labels map[string]string
	value  string
}

func at(labels ...string) map[string]string {
	m := map[string]string{"instance": "a"}
	for i := 0; i < len(labels); i += 2 {
		m[labels[i]] = labels[i+1]
	}
	return m
}

// routes are all that a speaker tells of a router's routes, which it always tells together.
func routes(some series) series {
	s := series{}
	for _, state := range []string{"pending", "unsupported", "not_placed", "failed"} {
		s[`speaker_routes_`+state+`{instance="a",peer="r1"}`] = zero
	}
	maps.Copy(s, some)
	return s
}

// cases are what each alert has to do. Every case has to fire exactly what it says; its healthy series, together with those of all
// others, must make nothing fire.
var cases = []struct {
	alert   string
	bad     series
	healthy series
	fires   []firing
}{
	{"TrafficMonitorNoLeader", series{`store_leading{instance="a"}`: zero, `store_leading{instance="b"}`: zero}, series{`store_leading{instance="a"}`: one, `store_leading{instance="b"}`: zero}, []firing{{map[string]string{}, ""}}},
	{"TrafficMonitorNoLeader", series{`store_leading{instance="a"}`: never}, nil, []firing{{map[string]string{}, ""}}},
	{"TrafficMonitorStoreDown", series{`store_up{instance="a"}`: zero, `store_up{instance="b"}`: one}, series{`store_up{instance="a"}`: one, `store_up{instance="b"}`: one}, []firing{{at(), ""}}},
	{"TrafficMonitorCommitErrors", series{`commit_errors_total{instance="a"}`: first}, series{`commit_errors_total{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorSafetyRefusals", series{`safety_refusals_total{instance="a",invariant="ttl"}`: first}, series{`safety_refusals_total{instance="a",invariant="ttl"}`: zero}, []firing{{at("invariant", "ttl"), ""}}},
	{"TrafficMonitorSafetyRefusals", series{`speaker_routes_refused_total{instance="a",invariant="never"}`: first}, series{`speaker_routes_refused_total{instance="a",invariant="never"}`: two}, []firing{{at("invariant", "never"), ""}}},
	{"TrafficMonitorPolicyRefused", series{`policy_refused{instance="a"}`: one}, series{`policy_refused{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorPolicyNotify", series{`policy_notifications_total{instance="a"}`: first, `policy_notifications_total{instance="b"}`: zero}, series{`policy_notifications_total{instance="a"}`: two}, []firing{{map[string]string{}, ""}}},
	{"TrafficMonitorApprovalAwaited", series{`approvals_awaited{instance="a"}`: two, `approvals_awaited{instance="b"}`: zero}, series{`approvals_awaited{instance="a"}`: zero}, []firing{{map[string]string{}, "2"}}},
	{"TrafficMonitorMitigationIneffective", series{`mitigation_phases{instance="a",phase="ineffective"}`: two}, series{`mitigation_phases{instance="a",phase="ineffective"}`: zero, `mitigation_phases{instance="a",phase="active"}`: two}, []firing{{map[string]string{}, "2"}}},
	{"TrafficMonitorPolicyCondition", series{`policy_condition_errors_total{instance="a"}`: first}, series{`policy_condition_errors_total{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorBreakerOpened", series{`breaker_trips_total{instance="a",reason="disputed"}`: first, `breaker_trips_total{instance="b",reason="disputed"}`: zero}, series{`breaker_trips_total{instance="a",reason="disputed"}`: zero}, []firing{{map[string]string{"reason": "disputed"}, ""}}},
	{"TrafficMonitorFreezeTooLong", series{`automation_frozen{instance="a"}`: one}, series{`automation_frozen{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorFreezeTooLong", series{`automation_frozen{instance="a"}`: zero, `automation_frozen_groups{instance="a"}`: two}, series{`automation_frozen_groups{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorSpeakerDown", series{`speaker_reachable{instance="a"}`: zero}, series{`speaker_reachable{instance="a"}`: one}, []firing{{at(), ""}}},
	{"TrafficMonitorSpeakerBehind", series{`speaker_behind_seconds{instance="a"}`: "75x120"}, series{`speaker_behind_seconds{instance="a"}`: "9x120"}, []firing{{at(), "1m 15s"}}},
	{"TrafficMonitorSpeakerUnconfirmed", series{`speaker_unconfirmed_seconds{instance="a"}`: "75x120"}, series{`speaker_unconfirmed_seconds{instance="a"}`: "29x120"}, []firing{{at(), "1m 15s"}}},
	{"TrafficMonitorAnnouncedUnconfirmed", series{`speaker_store_waits_total{instance="a",peer="r1",result="unanswered"}`: first}, series{`speaker_store_waits_total{instance="a",peer="r1",result="unanswered"}`: zero, `speaker_store_waits_total{instance="a",peer="r1",result="current"}`: runs}, []firing{{at("peer", "r1", "result", "unanswered"), ""}}},
	{"TrafficMonitorNoBGPSession", series{`speaker_peer_state{instance="a",peer="r1"}`: "3x120", `speaker_peer_state{instance="a",peer="r2"}`: "6x120"}, series{`speaker_peer_state{instance="a",peer="r1"}`: "6x120"}, []firing{{at("peer", "r1"), ""}}},
	{"TrafficMonitorRouterTakesNothing", series{`speaker_peer_stalled_seconds{instance="a",peer="r1"}`: "12x120"}, series{`speaker_peer_stalled_seconds{instance="a",peer="r1"}`: "5x120"}, []firing{{at("peer", "r1"), "12s"}}},
	{"TrafficMonitorRouteQuarantined", series{`speaker_routes_quarantined{instance="a",peer="r1"}`: two}, series{`speaker_routes_quarantined{instance="a",peer="r1"}`: zero}, []firing{{at("peer", "r1"), "2"}}},
	{"TrafficMonitorFamilyHeld", series{`speaker_family_held{instance="a",peer="r1",family="ipv6-flowspec"}`: one}, series{`speaker_family_held{instance="a",peer="r1",family="ipv6-flowspec"}`: zero}, []firing{{at("peer", "r1", "family", "ipv6-flowspec"), ""}}},
	{"TrafficMonitorRulesNotInstalled", series{`speaker_rules_not_installed{instance="a",peer="r1"}`: two}, series{`speaker_rules_not_installed{instance="a",peer="r1"}`: zero}, []firing{{at("peer", "r1"), "2"}}},
	{"TrafficMonitorProbeFails", series{`speaker_probes_total{instance="a",peer="r1",result="error"}`: runs}, series{`speaker_probes_total{instance="a",peer="r1",result="error"}`: first, `speaker_probes_total{instance="a",peer="r1",result="ok"}`: runs}, []firing{{at("peer", "r1"), ""}}},
	{"TrafficMonitorProbeFails", series{`speaker_probe_pause_seconds{instance="a",peer="r1"}`: "40x120"}, series{`speaker_probe_pause_seconds{instance="a",peer="r1"}`: zero}, []firing{{at("peer", "r1"), ""}}},
	{"TrafficMonitorRouterMissesRoutes", routes(series{`speaker_routes_pending{instance="a",peer="r1"}`: two}), routes(nil), []firing{{at("peer", "r1"), "2"}}},
	{"TrafficMonitorRouterMissesRoutes", routes(series{`speaker_routes_unsupported{instance="a",peer="r1"}`: two}), routes(nil), []firing{{at("peer", "r1"), "2"}}},
	{"TrafficMonitorRouterMissesRoutes", routes(series{`speaker_routes_not_placed{instance="a",peer="r1"}`: two}), routes(nil), []firing{{at("peer", "r1"), "2"}}},
	{"TrafficMonitorRouterMissesRoutes", routes(series{`speaker_routes_failed{instance="a",peer="r1"}`: two}), routes(nil), []firing{{at("peer", "r1"), "2"}}},
	{"TrafficMonitorRouterMissesRoutes", routes(series{`speaker_routes_failed{instance="a",peer="r1"}`: one, `speaker_routes_pending{instance="a",peer="r1"}`: two}), routes(nil), []firing{{at("peer", "r1"), "3"}}},
	{"TrafficMonitorRedButtonPressed", series{`speaker_withdrawn_all{instance="a"}`: one}, series{`speaker_withdrawn_all{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorSensorStale", series{`ingest_sensors_stale{instance="a"}`: two}, series{`ingest_sensors_stale{instance="a"}`: zero}, []firing{{at(), "2"}}},
	{"TrafficMonitorDirectiveRefused", series{`ingest_sensors_directive_refused{instance="a"}`: two}, series{`ingest_sensors_directive_refused{instance="a"}`: zero}, []firing{{at(), "2"}}},
	{"TrafficMonitorSensorsTroubled", series{`ingest_sensors_troubled{instance="a",problem="slots"}`: two, `ingest_sensors_troubled{instance="b",problem="slots"}`: one}, series{`ingest_sensors_troubled{instance="a",problem="slots"}`: zero, `ingest_sensors_troubled{instance="a",problem="gone"}`: one}, []firing{{map[string]string{"problem": "slots"}, "2"}}},
	{"TrafficMonitorReportsDropped", series{`ingest_reports_dropped_total{instance="a",cause="CAUSE_HOT"}`: first}, series{`ingest_reports_dropped_total{instance="a",cause="CAUSE_HOT"}`: zero}, []firing{{at("cause", "CAUSE_HOT"), ""}}},
	{"TrafficMonitorReportsDropped", series{`ingest_reports_missing_total{instance="a"}`: first}, series{`ingest_reports_missing_total{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorReportsDropped", series{`sensor_reports_dropped_total{instance="a",controller="c:7442"}`: first}, series{`sensor_reports_dropped_total{instance="a",controller="c:7442"}`: two}, []firing{{at("controller", "c:7442"), ""}}},
	{"TrafficMonitorTriggersLost", series{`sensor_triggers_lost_total{instance="a"}`: first}, series{`sensor_triggers_lost_total{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorSlotsExhausted", series{`sensor_slot_exhausted_packets_total{instance="a"}`: runs, `sensor_network_slots_exhausted_packets_total{instance="a"}`: zero}, series{`sensor_slot_exhausted_packets_total{instance="a"}`: two, `sensor_network_slots_exhausted_packets_total{instance="a"}`: two}, []firing{{at(), ""}}},
	{"TrafficMonitorSensorInterfaceMissing", series{`sensor_interface_attached{instance="a",interface="eth0",mode="host"}`: zero}, series{`sensor_interface_attached{instance="a",interface="eth0",mode="host"}`: one}, []firing{{at("interface", "eth0", "mode", "host"), ""}}},
	{"TrafficMonitorSensorSeesNothing", series{`sensor_packets_total{instance="a"}`: stops}, series{`sensor_packets_total{instance="a"}`: runs}, []firing{{at(), ""}}},
	{"TrafficMonitorSensorSeesNothing", series{`sensor_packets_total{instance="a"}`: runs, `sensor_interface_up{instance="a",interface="eth0"}`: zero}, series{`sensor_interface_up{instance="a",interface="eth0"}`: one}, []firing{{at("interface", "eth0"), ""}}},
	{"TrafficMonitorSensorSamplesLess", series{`sensor_restraint_level{instance="a"}`: one}, series{`sensor_restraint_level{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorSensorOverBudget", series{`sensor_budget_exhausted{instance="a"}`: one}, series{`sensor_budget_exhausted{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorSensorClockWrong", series{`ingest_clock_skew_seconds{instance="a"}`: "75x120"}, series{`ingest_clock_skew_seconds{instance="a"}`: "0.9x120"}, []firing{{at(), "1m 15s"}}},
	{"TrafficMonitorSensorUnpinned", series{`sensor_pinned{instance="a"}`: zero}, series{`sensor_pinned{instance="a"}`: one}, []firing{{at(), ""}}},
	{"TrafficMonitorSensorNotAlone", series{`sensor_interface_others{instance="a",interface="eth0"}`: two}, series{`sensor_interface_others{instance="a",interface="eth0"}`: zero}, []firing{{at("interface", "eth0"), ""}}},
	{"TrafficMonitorTargetsRefused", series{`view_refused_total{instance="a"}`: first}, series{`view_refused_total{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorProcessGone", series{`ready{instance="b"}`: "1x60 stale", `ready{instance="c"}`: one}, series{`ready{instance="b"}`: one}, []firing{{map[string]string{"instance": "b"}, ""}}},
	{"TrafficMonitorNotReady", series{`ready{instance="a"}`: zero}, series{`ready{instance="a"}`: one}, []firing{{at(), ""}}},
	{"TrafficMonitorCertificateExpiring", series{`certificate_expiry_timestamp_seconds{instance="a",of="own"}`: "1123200x120"}, series{`certificate_expiry_timestamp_seconds{instance="a",of="own"}`: "2592000x120"}, []firing{{at("of", "own"), ""}}}, // promtool begins at 1970
	{"TrafficMonitorCertificateUnusable", series{`certificate_usable{instance="a"}`: zero}, series{`certificate_usable{instance="a"}`: one}, []firing{{at(), ""}}},
	{"TrafficMonitorAuditLost", series{`audit_lost_total{instance="a",destination="file"}`: first}, series{`audit_lost_total{instance="a",destination="file"}`: zero, `audit_lost_total{instance="a",destination="subscriber"}`: runs}, []firing{{at("destination", "file"), ""}}},
	{"TrafficMonitorJournalFailing", series{`journal_failing{instance="a"}`: one}, series{`journal_failing{instance="a"}`: zero}, []firing{{at(), ""}}},
	{"TrafficMonitorJournalFailing", series{`journal_dropped_total{instance="a",reason="queue"}`: runs}, series{`journal_dropped_total{instance="a",reason="queue"}`: two, `journal_dropped_total{instance="a",reason="disk"}`: runs}, []firing{{at("reason", "queue"), ""}}},
}

type (
	promSeries struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	}
	promAlert struct {
		Labels      map[string]string `yaml:"exp_labels"`
		Annotations map[string]string `yaml:"exp_annotations"`
	}
	promCheck struct {
		Time   string      `yaml:"eval_time"`
		Alert  string      `yaml:"alertname"`
		Alerts []promAlert `yaml:"exp_alerts"`
	}
	promTest struct {
		Name     string       `yaml:"name"`
		Interval string       `yaml:"interval"`
		Series   []promSeries `yaml:"input_series"`
		Checks   []promCheck  `yaml:"alert_rule_test"`
	}
)

func (s series) input() (out []promSeries) {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		out = append(out, promSeries{"trafficmonitor_" + name, s[name]})
	}
	return out
}

var either = regexp.MustCompile(`\{\{ with \$labels\.(\w+) \}\}(.*)\{\{ else \}\}(.*)\{\{ end \}\}`)

var templated = regexp.MustCompile(`\{\{ \$(labels\.(\w+)|value)( \| humanizeDuration)? \}\}`)

// says is what an annotation says of a firing alert.
func (f firing) says(t *testing.T, text string) string {
	text = either.ReplaceAllStringFunc(text, func(s string) string {
		m := either.FindStringSubmatch(s)
		if v := f.labels[m[1]]; v != "" {
			return strings.ReplaceAll(m[2], "{{ . }}", v)
		}
		return m[3]
	})
	return templated.ReplaceAllStringFunc(text, func(s string) string {
		m := templated.FindStringSubmatch(s)
		if m[2] == "" {
			return f.value
		}
		v, ok := f.labels[m[2]]
		if !ok {
			t.Errorf("%q names a label that the alert has not", text)
		}
		return v
	})
}

// TestAlerts has promtool run every alert.
func TestAlerts(t *testing.T) {
	lab.NeedTool(t, "promtool")
	all := rules(t)
	seen, well := map[string]int{}, map[string]bool{}
	healthy := series{}
	// The first case of each alert in one round, the second in the next, and so on: promtool evaluates all rules for each.
	var rounds []series
	var checks [][]promCheck
	for _, c := range cases {
		r, ok := all[c.alert]
		if !ok {
			t.Errorf("there is no alert %s", c.alert)
			continue
		}
		round := seen[c.alert]
		seen[c.alert]++
		if round == len(rounds) {
			rounds, checks = append(rounds, series{}), append(checks, nil)
		}
		maps.Copy(healthy, c.healthy)
		well[c.alert] = well[c.alert] || len(c.healthy) > 0
		for name, values := range c.bad {
			if _, ok := rounds[round][name]; ok {
				t.Errorf("%s: %s is another case's, too", c.alert, name)
			}
			rounds[round][name] = values
		}
		check := promCheck{Time: "2h", Alert: c.alert}
		for _, f := range c.fires {
			a := promAlert{maps.Clone(f.labels), map[string]string{}}
			maps.Copy(a.Labels, r.Labels)
			for key, text := range r.Annotations {
				a.Annotations[key] = f.says(t, text)
			}
			check.Alerts = append(check.Alerts, a)
		}
		checks[round] = append(checks[round], check)
	}
	var tests []promTest
	for i := range rounds {
		if seen["TrafficMonitorNoLeader"] <= i { // somebody has to lead
			rounds[i][`store_leading{instance="a"}`] = one
		}
		for name := range all {
			if seen[name] <= i { // it has no case in this round, and is quiet while others fire
				checks[i] = append(checks[i], promCheck{Time: "2h", Alert: name})
			}
		}
		tests = append(tests, promTest{fmt.Sprintf("round %d", i), "1m", rounds[i].input(), checks[i]})
	}
	quiet := promTest{"healthy", "1m", healthy.input(), nil}
	nothing := promTest{"nothing is scraped", "1m", nil, nil}
	for name := range all {
		if seen[name] == 0 || !well[name] {
			t.Errorf("%s has no case in which it fires, or none in which it is quiet", name)
		}
		quiet.Checks = append(quiet.Checks, promCheck{Time: "2h", Alert: name})
		if name != "TrafficMonitorNoLeader" {
			nothing.Checks = append(nothing.Checks, promCheck{Time: "2h", Alert: name})
		}
	}
	path, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(map[string]any{"rule_files": []string{path}, "evaluation_interval": "1m", "tests": append(tests, quiet, nothing)})
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, text, "test", "rules")
}

// TestDashboards has promtool parse every query of the dashboards.
func TestDashboards(t *testing.T) {
	lab.NeedTool(t, "promtool")
	files, err := filepath.Glob("../../deploy/grafana/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	type record struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var records []record
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var board any
		if err := yaml.Unmarshal(text, &board); err != nil { // JSON is YAML
			t.Fatalf("%s: %v", file, err)
		}
		var walk func(any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				if expr, ok := v["expr"].(string); ok {
					expr = strings.NewReplacer("$__rate_interval", "5m", "$__interval", "1m", "$__range", "1h").Replace(expr)
					records = append(records, record{fmt.Sprintf("query_%d", len(records)), expr})
				}
				for _, x := range v {
					walk(x)
				}
			case []any:
				for _, x := range v {
					walk(x)
				}
			}
		}
		walk(board)
	}
	if len(records) < 10 {
		t.Fatalf("only %d queries were found", len(records))
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "queries", "rules": records}}})
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, text, "check", "rules")
}

func promtool(t *testing.T, text []byte, args ...string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(lab.FindTool("promtool"), append(args, path)...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
