package app

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func TestBaselineIsKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "baseline.bin")
	var log bytes.Buffer
	load := func() *baseline.Learner {
		return loadBaseline(config.DefaultController().Baseline, file, slog.New(slog.NewTextHandler(&log, nil)))
	}
	l := load()
	if log.Len() > 0 {
		t.Errorf("the first start warns: %s", &log)
	}
	target, now := netip.MustParsePrefix("192.0.2.1/32"), time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	for range 3 * 24 * 360 {
		now = now.Add(10 * time.Second)
		l.Observe(now, baseline.Key{Target: target, Vector: vector.DNS}, 500, 1e6, false)
	}
	b, err := l.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // also over an older one
		if err := writeWhole(file, b); err != nil {
			t.Fatal(err)
		}
	}
	if pps, _, ok := load().Normal(now, target, vector.Inbound, vector.DNS); !ok || pps < 450 || pps > 550 {
		t.Errorf("after a restart %v packets/s are normal, known %v", pps, ok)
	}
	if left, err := filepath.Glob(file + ".new-*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestDamagedBaselineIsSetAside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "baseline.bin")
	if err := os.WriteFile(file, []byte("no snapshot"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	l := loadBaseline(config.DefaultController().Baseline, file, slog.New(slog.NewTextHandler(&log, nil)))
	if n, _ := l.Keys(); n != 0 {
		t.Errorf("%d keys are known", n)
	}
	if !strings.Contains(log.String(), "learning begins anew") {
		t.Errorf("it says %q", log.String())
	}
	if b, err := os.ReadFile(file + ".damaged"); err != nil || string(b) != "no snapshot" {
		t.Errorf("set aside: %q %v", b, err)
	}
}

func TestWriteWholeLeavesWhatWasThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if err := writeWhole(filepath.Join(dir, "baseline.bin"), nil); err == nil {
		t.Error("written into a folder that does not exist")
	}
}
