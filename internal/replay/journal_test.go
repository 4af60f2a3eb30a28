package replay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/journal"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// answer is a DNS answer from one of many resolvers to 203.0.113.10.
func answer(i int, at time.Duration) Packet {
	frame := make([]byte, 14+28+400)
	frame[12] = 8
	ip := frame[14:]
	ip[0], ip[8], ip[9] = 0x45, 60, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{198, 51, byte(i >> 8), byte(i)})
	copy(ip[16:], []byte{203, 0, 113, 10})
	binary.BigEndian.PutUint16(ip[20:], 53)
	binary.BigEndian.PutUint16(ip[22:], uint16(1024+i%50_000))
	binary.BigEndian.PutUint16(ip[24:], uint16(len(ip)-20))
	return Packet{Time: t0.Add(at), Data: frame}
}

// attack is two seconds of 50,000 answers a second, after a quiet second.
func attack() (out []Packet) {
	out = append(out, answer(0, 0))
	for i := range 100_000 {
		out = append(out, answer(i, time.Second+time.Duration(i)*20*time.Microsecond))
	}
	return out
}

// keep replays packets and journals what the sensor reports, as a controller would.
func keep(t *testing.T, packets []Packet) (dir string, result *Result) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "journal")
	w, err := journal.New(journal.Options{Dir: dir, Queue: 1 << 20, QueueBytes: 1 << 30, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Policy: policy.Default(), Ports: classify.DefaultPorts(), MaxTargets: 1000, Targets: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}
	e := newEngine(o, false)
	e.sensor.emit = func(now time.Time, r traffic.Report) {
		w.Report(now, r)
		e.report(now, r)
	}
	for i, p := range packets {
		e.packet(p)
		if i%20_000 == 0 { // a block of its own
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if i%64 == 0 {
			r := Classify(p, vector.Inbound, o)
			w.Samples(p.Time, "", []traffic.Sample{r.Sample(p.Time, vector.Inbound, 64)})
		}
	}
	e.finish()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, &e.result
}

func opened(dir string) func() (*journal.Reader, error) {
	return func() (*journal.Reader, error) { return journal.Open(dir) }
}

func TestJournalTellsTheSameIncident(t *testing.T) {
	dir, want := keep(t, attack())
	if len(want.Incidents) != 1 {
		t.Fatalf("%d incidents as they came", len(want.Incidents))
	}
	got, damaged, err := Journal(context.Background(), Options{}, opened(dir))
	if err != nil || len(damaged) > 0 {
		t.Fatal(err, damaged)
	}
	if len(got.Incidents) != 1 {
		t.Fatalf("%d incidents of the journal", len(got.Incidents))
	}
	a, b := want.Incidents[0], got.Incidents[0]
	if a.ID != b.ID || !a.Onset.Equal(b.Onset) || !a.Decided.Equal(b.Decided) || a.Reason != b.Reason || !a.Ended.Equal(b.Ended) {
		t.Errorf("as it came:\n%+v\nof the journal:\n%+v", a.Incident, b.Incident)
	}
	if b.Coverage < 0.95 || b.AttackPackets < 90_000 {
		t.Errorf("coverage %v of %d packets", b.Coverage, b.AttackPackets)
	}
	if got.Reports == 0 || got.Packets == 0 {
		t.Errorf("%d reports, %d samples", got.Reports, got.Packets)
	}
}

func TestJournalUnderAnotherPolicy(t *testing.T) {
	dir, _ := keep(t, attack())
	p, err := policy.Parse("lax.yaml", []byte("version: 1\nthresholds: [{vectors: all-reflection, pps: 1 Mpps}]\nresponses: [{vectors: all, action: observe}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := Journal(context.Background(), Options{Policy: p}, opened(dir))
	if err != nil || len(got.Incidents) != 0 {
		t.Errorf("%v %+v", err, got)
	}
}

func TestDamagedJournalSaysSo(t *testing.T) {
	dir, _ := keep(t, attack())
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	name := filepath.Join(dir, files[0].Name())
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[len(b)/2:], bytes.Repeat([]byte{0xff}, 40))
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, damaged, err := Journal(context.Background(), Options{}, opened(dir))
	var hole *journal.Damage
	if err != nil || len(damaged) == 0 || !errors.As(damaged[0], &hole) {
		t.Errorf("%v, damaged %v", err, damaged)
	}
}
