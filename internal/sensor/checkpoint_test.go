package sensor

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// What is counted before, between and after processes is reported once and only once, and the totals go on.
func TestReportsGoOnAfterARestart(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		out, _ := wire(t)
		c := newController(t, "", told(1, 1))
		o := Options{
			Interfaces: []Interface{{Name: "in", Mode: Host}}, Controllers: []Controller{{Address: c.address}},
			Pin: bpffs(t), Checkpoint: filepath.Join(t.TempDir(), "run", "checkpoint"), StateFile: filepath.Join(t.TempDir(), "state"),
		}
		got := map[string]sum{}
		drain := func() {
			for {
				select {
				case m := <-c.messages:
					if r := m.GetReport(); r.GetCause() == pb.Report_CAUSE_INTERVAL {
						total(r, got)
					}
				default:
					return
				}
			}
		}
		burst := slices.Repeat([][]byte{udpFrame("192.0.2.9", 53, 100), udpFrame("2001:db8::9", 123, 200)}, 100)
		const four, six = "192.0.2.9/32 dns-amplification", "2001:db8::9/128 ntp-amplification"
		want := uint64(0)
		for range 4 {
			reg, stop := start(t, o)
			c.await(t, "report that follows the directive", func(m *pb.ConnectRequest) bool {
				if r := m.GetReport(); r.GetCause() == pb.Report_CAUSE_INTERVAL {
					total(r, got)
				}
				return m.GetReport().GetDirective().GetRevision() == 1
			})
			send(t, out, burst...)
			want += 100
			stop()
			// All of it, at the moment the process has ended.
			drain()
			if got[four].packets != want || got[six].packets != want {
				t.Fatalf("reported when it ended: %v, want %d each", got, want)
			}
			if n := series(t, reg, "trafficmonitor_sensor_packets_total", "", ""); uint64(n) < 2*want {
				t.Errorf("%v packets counted, want %d and what the kernel sent itself", n, 2*want)
			}
			send(t, out, burst...) // nobody reads
			want += 100
		}
		// Its note lost, a process reports nothing twice.
		if err := os.Remove(o.Checkpoint); err != nil {
			t.Fatal(err)
		}
		_, stop := start(t, o)
		c.await(t, "hello", func(m *pb.ConnectRequest) bool { return m.GetHello() != nil })
		stop()
		if drain(); got[four].packets != want-100 {
			t.Errorf("reported without a note: %v, want %d", got, want-100)
		}
	})
}

// notes is a teller that was told one octet at a time.
type notes struct {
	all, news []byte
	many      bool
}

func (n *notes) tell(b string) { n.all, n.news = append(n.all, b...), append(n.news, b...) }

func (n *notes) AppendTold(b []byte) []byte {
	n.news, n.many = nil, false
	return append(b, n.all...)
}

func (n *notes) AppendNews(b []byte) ([]byte, bool) {
	if n.many {
		return b, false
	}
	b, n.news = append(b, n.news...), nil
	return b, true
}

func TestCheckpoint(t *testing.T) {
	c := checkpoint{path: filepath.Join(t.TempDir(), "run", "checkpoint")}
	if b, _, err := c.load(); b != nil || err != nil {
		t.Errorf("none: %q %v", b, err)
	}
	now, n := time.Unix(1700000000, 7), &notes{}
	size := func() int64 {
		t.Helper()
		info, err := os.Stat(c.path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	save := func() {
		t.Helper()
		now = now.Add(time.Second)
		if err := c.save(now, n); err != nil {
			t.Fatal(err)
		}
		if b, at, err := c.load(); string(b) != string(n.all) || !at.Equal(now) || err != nil {
			t.Fatalf("%q of %v (%v), want %q of %v", b, at, err, n.all, now)
		}
	}
	n.tell("told")
	save()
	n.tell(" more")
	save()
	save()
	if got := size(); got != 3*noteHeader+9 {
		t.Errorf("%d octets: what was noted before is noted again", got)
	}
	if err := os.Remove(c.path); err != nil {
		t.Fatal(err)
	}
	save() // it is there again, and whole
	n.many = true
	save()
	if got := size(); got != noteHeader+9 {
		t.Errorf("%d octets after much was told at once", got)
	}
	for before := int64(0); size() > before; {
		before = size()
		n.tell(".")
		save()
		if most := 2*int64(len(n.all)) + roomForNews + 100; size() > most {
			t.Fatalf("%d octets for %d", size(), len(n.all))
		}
	}

	whole, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) {
		told, _, ok := readNotes(whole[:cut])
		if ok && !bytes.HasPrefix(n.all, told) {
			t.Fatalf("cut to %d octets: %q", cut, told)
		}
		if first := noteHeader + int(binary.LittleEndian.Uint32(whole[8:])); ok != (cut >= first) {
			t.Fatalf("cut to %d octets, the first note has %d: %v", cut, first, ok)
		}
	}
	if err := os.WriteFile(c.path, []byte("cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.load(); err == nil {
		t.Error("a note that is cut off is read")
	}
	// Where it cannot be written there is none: an old one would report twice.
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	save()
	n.many = true
	if err := os.Mkdir(c.path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.save(now, n); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(c.path); !os.IsNotExist(err) {
		t.Errorf("an old note is left: %v", err)
	}
	if err := os.Remove(c.path + ".new"); err != nil {
		t.Fatal(err)
	}
	save()
	c.file.Close() // so that nothing can be added to it
	if err := c.save(now, n); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(c.path); !os.IsNotExist(err) {
		t.Errorf("an old note is left: %v", err)
	}
	save()
	none := checkpoint{}
	if err := none.save(now, nil); err != nil {
		t.Error(err)
	}
}
