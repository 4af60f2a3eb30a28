package tmctl

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func offline(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, bad bytes.Buffer
	code = Run(context.Background(), args, Env{Stdout: &out, Stderr: &bad, Version: "test", Now: func() time.Time { return time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC) }})
	return out.String(), bad.String(), code
}

const goodPolicy = `version: 1
thresholds:
  - {vectors: all-tcp, pps: 50 kpps}
  - {vectors: syn, pps: 20 kpps}
  - {vectors: dns-amplification, pps: 20 kpps}
responses:
  - {vectors: syn, when: now.hour < 6, action: notify}
  - vectors: syn
    ladder:
      - {action: rate-limit 1 Mbps, max_collateral: 5%}
      - {action: discard, after: 1m, if: evidence.reduction < 0.9}
  - {vectors: dns-amplification, action: discard}
groups:
  web: {prefixes: 203.0.113.0/24, thresholds: [{vectors: syn, bps: 100 Mbps}]}
`

const goodTests = `version: 1
tests:
  - {name: by day a SYN flood is limited, given: {target: 203.0.113.9, vector: syn, pps: 30 kpps, collateral: 1%}, expect: {group: web, attack: true, action: rate-limit 1 Mbps}}
  - {name: by night a person looks, given: {target: 203.0.113.9, vector: syn, pps: 30 kpps, at: 2026-11-28T03:00:00Z}, expect: {action: notify}}
`

func files(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPolicyCheckAndTest(t *testing.T) {
	dir := files(t, map[string]string{
		"good.yaml": goodPolicy, "good_test.yaml": goodTests,
		"site.d/10-a.yaml": goodPolicy, "site.d/a_test.yaml": goodTests, "site.d/b_test.yaml": goodTests,
		"bad.yaml":        "version: 1\nthresholds: []\nresponses: [{vectors: sin, action: drop}]\n",
		"failing.yaml":    "version: 1\nthreshold: []\n",
		"wrong_test.yaml": strings.Replace(goodTests, "action: notify", "action: discard", 1),
		"typo_test.yaml":  "version: 1\ntest: []\n",
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, tc := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"policy", "check", at("good.yaml")}, ExitOK, "good.yaml is good, sha256 ", ""},
		{[]string{"policy", "check", at("site.d")}, ExitOK, "site.d is good", ""},
		{[]string{"policy", "check", "default"}, ExitOK, "default is good", ""},
		{[]string{"policy", "check", at("bad.yaml")}, ExitFailed, "", `bad.yaml:3: responses[0].vectors: "sin" is not a vector; did you mean "syn"?`},
		{[]string{"policy", "check", at("bad.yaml")}, ExitFailed, "", `did you mean "discard"?`},
		{[]string{"policy", "check", at("bad.yaml"), "-o", "json"}, ExitFailed, `"suggestion": "discard"`, ""},
		{[]string{"policy", "check", at("none.yaml")}, ExitFailed, "", "no such file"},
		{[]string{"policy", "check"}, ExitUsage, "", "give exactly one, a policy"},
		{[]string{"policy", "test", at("good.yaml")}, ExitOK, "2 tests, 0 failed", ""},
		{[]string{"policy", "test", at("site.d")}, ExitOK, "4 tests, 0 failed", ""},
		{[]string{"policy", "test", at("good.yaml"), at("wrong_test.yaml")}, ExitFailed, "wrong_test.yaml:4: by night a person looks\n    the action is notify", ""},
		{[]string{"policy", "test", at("good.yaml"), at("wrong_test.yaml"), "-o", "json"}, ExitFailed, `"passed": false`, ""},
		{[]string{"policy", "test", at("good.yaml"), at("typo_test.yaml")}, ExitFailed, "", `typo_test.yaml:2: test: is not a key here; did you mean "tests"?`},
		{[]string{"policy", "test", at("bad.yaml")}, ExitFailed, "", "is not a vector"},
		{[]string{"policy", "test", "default"}, ExitFailed, "", "there is no such file"},
		{[]string{"policy", "test"}, ExitUsage, "", "POLICY is missing"},
		{[]string{"policy", "schema"}, ExitOK, `"title": "TrafficMonitor policy"`, ""},
	} {
		stdout, stderr, code := offline(t, tc.args...)
		if code != tc.code || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) || tc.stderr == "" && stderr != "" {
			t.Errorf("%q: exit %d\n%s%s", tc.args, code, stdout, stderr)
		}
	}
}

func TestPolicyExplain(t *testing.T) {
	dir := files(t, map[string]string{"p.yaml": goodPolicy})
	t.Chdir(dir)
	stdout, stderr, code := offline(t, "policy", "explain", "p.yaml", "203.0.113.9", "syn", "--at", "2026-11-28T12:00:00Z")
	want := `syn of 203.0.113.9/32 belongs to the group web.

LIMIT      VALUE     FROM                          LINE
pps        20 kpps   thresholds[1].pps             p.yaml:4
bps        100 Mbps  groups.web.thresholds[0].bps  p.yaml:14
windows    1         defaults.windows              -
end_below  70%       defaults.end_below            -
end_after  10s       defaults.end_after            -

responses[1]: syn is answered with rate-limit 1 Mbps (collateral at most 5%); then after 1m and if evidence.reduction < 0.9, discard; not while the collateral is above 5%, or not known
responses[1] stands at p.yaml:8
  1. rate-limit 1 Mbps (collateral at most 5%); for 10m, extended by 5m, at most 24h
  2. after 1m and if evidence.reduction < 0.9, discard; for 10m, extended by 5m, at most 24h
`
	if stdout != want || code != ExitOK {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	stdout, _, code = offline(t, "policy", "explain", "p.yaml", "203.0.113.9", "syn", "-o", "json") // at night
	var out explained
	if err := json.Unmarshal([]byte(stdout), &out); err != nil || code != ExitOK || out.Place != "p.yaml:7" || out.Steps[0].Action != "notify" || len(out.Limits) != 5 {
		t.Errorf("%v\n%s", err, stdout)
	}
	if stdout, _, _ := offline(t, "policy", "explain", "p.yaml", "2001:db8::1", "icmp"); !strings.Contains(stdout, "No limit: it never makes an incident.") {
		t.Error(stdout)
	}
	if _, stderr, code := offline(t, "policy", "explain", "p.yaml", "203.0.113.999", "sin", "--pps", "20", "--test", "x"); code != ExitUsage || strings.Count(stderr, ":") < 5 {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestPolicyDiff(t *testing.T) {
	dir := files(t, map[string]string{
		"old.yaml": goodPolicy, "new.yaml": strings.Replace(goodPolicy, "action: discard}\n", "action: rate-limit 2 Mbps}\n", 1),
		"lax.yaml": strings.Replace(goodPolicy, "dns-amplification, pps: 20 kpps", "dns-amplification, pps: 9 Mpps", 1),
		"a.pcap":   string(flood(20_000, 10*time.Microsecond)),
	})
	t.Chdir(dir)
	stdout, stderr, code := offline(t, "policy", "diff", "old.yaml", "old.yaml", "--capture", "a.pcap")
	if code != ExitOK || stdout != "1 incident under the old policy, 1 under the new one; 1 the same, 0 that differ\n" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	stdout, _, _ = offline(t, "policy", "diff", "old.yaml", "new.yaml", "--capture", "a.pcap")
	if !strings.Contains(stdout, "~ inbound 203.0.113.10/32: action, routes\n") ||
		!strings.Contains(stdout, "then discard\n") || !strings.Contains(stdout, "then rate-limit 2Mbps\n") {
		t.Error(stdout)
	}
	stdout, _, code = offline(t, "policy", "diff", "old.yaml", "lax.yaml", "--capture", "a.pcap", "--json")
	var d policyDiff
	if err := json.Unmarshal([]byte(stdout), &d); err != nil || code != ExitOK || d.OldIncidents != 1 || d.NewIncidents != 0 || len(d.Changes) != 1 || d.Changes[0].New != nil || len(d.Changes[0].Old.Routes) != 1 {
		t.Errorf("%v\n%s", err, stdout)
	}
	for _, args := range [][]string{
		{"old.yaml", "new.yaml"},
		{"old.yaml", "--capture", "a.pcap"},
		{"old.yaml", "new.yaml", "--capture", "a.pcap", "--journal", "j"},
		{"old.yaml", "new.yaml", "--capture", "a.pcap", "--from", "2026-11-28T02:00:00Z"},
		{"old.yaml", "new.yaml", "--journal", "j", "--from", "yesterday"},
	} {
		if _, stderr, code := offline(t, append([]string{"policy", "diff"}, args...)...); code != ExitUsage || stderr == "" {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
	if _, stderr, code := offline(t, "policy", "diff", "old.yaml", "new.yaml", "--journal", "nothing"); code != ExitFailed || !strings.Contains(stderr, "nothing") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}
