// Package telemetrytest keeps docs/metrics.md in step with the metrics a daemon registers, for the tests of daemons.
package telemetrytest

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/amooglesoft/trafficmonitor/internal/telemetry"
)

// Recorder is a daemon's registry that also knows the type of metrics which have no value yet.
type Recorder struct {
	telemetry.Registry

	mu   sync.Mutex
	vecs []prometheus.Collector // guarded by mu
}

// NewRecorder returns a registry as the daemon makes it.
func NewRecorder(daemon string) *Recorder {
	return &Recorder{Registry: telemetry.NewRegistry(daemon, "test")}
}

// Register implements prometheus.Registerer.
func (r *Recorder) Register(c prometheus.Collector) error {
	r.mu.Lock()
	r.vecs = append(r.vecs, c)
	r.mu.Unlock()
	return r.Registry.Register(c)
}

// MustRegister implements prometheus.Registerer.
func (r *Recorder) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// metric is one row of the documentation.
type metric struct{ name, kind, help, labels string }

// descText is how the library prints a description, which has no other way to be asked.
var descText = regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: (".*"), constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// metrics lists every metric of ours and lints it, whether it has a value or not.
func (r *Recorder) metrics(t *testing.T) []metric {
	t.Helper()
	kinds := map[string]dto.MetricType{}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		kinds[f.GetName()] = f.GetType()
	}
	r.mu.Lock()
	collectors := slices.Clone(r.vecs)
	r.mu.Unlock()
	if all, ok := r.Registry.(prometheus.Collector); ok { // with what was registered before us
		collectors = append(collectors, all)
	}
	found := map[string]metric{}
	for _, c := range collectors {
		descs := make(chan *prometheus.Desc, 1000)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			m := descText.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("%s is not understood", d)
			}
			name := m[1]
			if !strings.HasPrefix(name, "trafficmonitor_") {
				continue
			}
			switch c.(type) {
			case *prometheus.CounterVec:
				kinds[name] = dto.MetricType_COUNTER
			case *prometheus.GaugeVec:
				kinds[name] = dto.MetricType_GAUGE
			case *prometheus.HistogramVec:
				kinds[name] = dto.MetricType_HISTOGRAM
			}
			var help string
			if _, err := fmt.Sscanf(m[2], "%q", &help); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			labels := ""
			if m[3] != "" {
				labels = "`" + strings.ReplaceAll(m[3], ",", "`, `") + "`"
			}
			found[name] = metric{name: name, help: help, labels: labels}
		}
	}
	var out []metric
	var lint []*dto.MetricFamily
	for name, m := range found {
		kind, ok := kinds[name]
		if !ok {
			t.Errorf("%s has no value, so its type is not known: let it have one in this test", name)
			continue
		}
		m.kind = strings.ToLower(kind.String())
		out = append(out, m)
		lint = append(lint, &dto.MetricFamily{Name: &m.name, Help: &m.help, Type: &kind})
	}
	problems, err := promlint.NewWithMetricFamilies(append(lint, families...)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "trafficmonitor_") {
			t.Errorf("metric %s: %s", p.Metric, p.Text)
		}
	}
	slices.SortFunc(out, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return out
}

const head = "\n| metric | type | labels | meaning | normal; what to look at |\n|---|---|---|---|---|\n"

// Document compares the section of a daemon in docs/metrics.md with its registry. With update it is written, but for
// the last column, which people write: no row may lack it.
func (r *Recorder) Document(t *testing.T, file, section string, update bool) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- begin "+section+" metrics -->\n", "<!-- end "+section+" metrics -->\n"
	before, rest, ok := strings.Cut(string(b), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks %q and %q", file, begin, end)
	}
	advice := map[string]string{}
	for line := range strings.Lines(old) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); strings.HasPrefix(line, "| `") && len(cells) == 5 {
			advice[strings.Trim(cells[0], "|` ")] = strings.TrimSpace(strings.TrimSuffix(cells[4], "|"))
		}
	}
	var table strings.Builder
	table.WriteString(head)
	for _, m := range r.metrics(t) {
		if strings.Contains(m.help, "|") {
			t.Errorf("%s: the help cannot hold a bar", m.name)
		}
		words := advice[m.name]
		if words == "" {
			t.Errorf("%s: its last column in %s must say what is normal or what to look at", m.name, file)
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", m.name, m.kind, m.labels, m.help, words)
	}
	table.WriteString("\n")
	doc := before + begin + table.String() + end + after
	if update {
		if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(string(b), doc); d != "" {
		t.Errorf("%s and the %s's metrics differ (go test -update writes all but the last column):\n%s", file, section, d)
	}
}
