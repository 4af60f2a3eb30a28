package console

import (
	"fmt"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestDocumentationSaysWhoMayWhat(t *testing.T) {
	b, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for method, roles := range roles() {
		if row := fmt.Sprintf("| `%s` | %s |", path.Base(method), strings.Join(roles, ", ")); !strings.Contains(text, row) {
			t.Errorf("docs/api.md lacks the row %s", row)
		}
	}
	for _, word := range []string{ReasonNotLeader, ReasonRefused, ReasonConflict, "`" + ReasonUnavailable + "`", preconditionPrefix, KindEventsLost, fmt.Sprint(maxReason)} {
		if !strings.Contains(text, word) {
			t.Errorf("docs/api.md lacks %s", word)
		}
	}
	descs := make(chan *prometheus.Desc, 100)
	m := newMetrics(nil)
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.panics, m.handshakeErrors, m.watchers, m.eventsLost} {
		c.Describe(descs)
	}
	close(descs)
	for d := range descs {
		name, _, _ := strings.Cut(strings.TrimPrefix(d.String(), `Desc{fqName: "`), `"`)
		if !strings.Contains(text, name) {
			t.Errorf("docs/api.md lacks the metric %s", name)
		}
	}
}
