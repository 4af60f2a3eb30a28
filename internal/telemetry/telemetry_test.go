package telemetry

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	h := &Health{}
	o := Options{Gatherer: NewRegistry("sensor", "v1"), Health: h, Log: slog.New(slog.DiscardHandler)}
	get := func(path string) (int, string) {
		rec := httptest.NewRecorder()
		Handler(o).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return rec.Code, rec.Body.String()
	}
	for _, tc := range []struct {
		path, reason string
		code         int
		has          string
	}{
		{"/healthz", "etcd is gone", 200, "ok"},
		{"/readyz", "", 200, `"ready":true`},
		{"/readyz", "etcd is gone", 503, "store: etcd is gone"},
		{"/metrics", "", 200, `trafficmonitor_build_info{daemon="sensor",version="v1"} 1`},
		{"/debug/pprof/", "", 404, ""},
	} {
		h.Set("store", tc.reason)
		if code, body := get(tc.path); code != tc.code || !strings.Contains(body, tc.has) {
			t.Errorf("GET %s with reason %q = %d %q; want %d with %q", tc.path, tc.reason, code, body, tc.code, tc.has)
		}
	}
	o.Pprof = true
	if code, _ := get("/debug/pprof/"); code != 200 {
		t.Errorf("pprof answers %d though it is on", code)
	}
}

func TestHealthAsMetrics(t *testing.T) {
	h := &Health{}
	reg := NewRegistry("sensor", "v1")
	if err := h.Register(reg); err != nil {
		t.Fatal(err)
	}
	page := func() string {
		rec := httptest.NewRecorder()
		Handler(Options{Gatherer: reg, Health: h}).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		return rec.Body.String()
	}
	if p := page(); !strings.Contains(p, "\ntrafficmonitor_ready 1\n") || strings.Contains(p, "trafficmonitor_not_ready{") {
		t.Errorf("ready, but:\n%s", p)
	}
	h.Set("store", "etcd is gone")
	if p := page(); !strings.Contains(p, "\ntrafficmonitor_ready 0\n") || !strings.Contains(p, `trafficmonitor_not_ready{component="store"} 1`) {
		t.Errorf("not ready, but:\n%s", p)
	}
}

func TestNewLogger(t *testing.T) {
	for _, tc := range []struct{ level, format, err string }{
		{"", "", ""},
		{"debug", "json", ""},
		{"error", "text", ""},
		{"loud", "text", `log level "loud"`},
		{"info", "xml", `log format "xml"`},
	} {
		_, err := NewLogger(io.Discard, tc.level, tc.format)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("NewLogger(%q, %q) = %v, want %q", tc.level, tc.format, err, tc.err)
		}
	}
}
