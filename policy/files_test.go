package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("-reviewed +now (go test -update accepts it):\n%s", d)
	}
}

func TestDirectory(t *testing.T) {
	p, err := Load("testdata/site")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, v := range []vector.ID{vector.DNS, vector.SYN, vector.Total, vector.ACK} {
		for _, target := range []string{"203.0.113.1", "198.51.100.1", "2001:db8:9::1", "192.0.2.1"} {
			got.WriteString(target + " " + v.String() + ": " + p.Explain(pfx(target), v, now) + "\n")
		}
	}
	strong := Incident{Target: pfx("203.0.113.1"), Vector: vector.SYN, Measured: true, PPS: 200_001, Duration: 601e9}
	got.WriteString("strong: " + p.ExplainIncident(strong, now) + "\n")
	strong.PPS = 200_000
	got.WriteString("not so strong: " + p.ExplainIncident(strong, now) + "\n")
	got.WriteString("responses[3] stands at " + p.Place("responses[3]") + "\n")
	golden(t, "testdata/site.golden", got.String())

	sum := sha256.New()
	for _, name := range []string{"10-limits.yaml", "20-games.yaml"} {
		text, err := os.ReadFile(filepath.Join("testdata/site", name))
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(text)
		if !strings.Contains(p.Text(), string(text)) {
			t.Errorf("%s is not in the text", name)
		}
	}
	if p.Hash() != hex.EncodeToString(sum.Sum(nil)) {
		t.Errorf("hash %s is not that of the files one after the other", p.Hash())
	}
}

func TestClashingFiles(t *testing.T) {
	_, err := Load("testdata/clash")
	if err == nil {
		t.Fatal("is read")
	}
	golden(t, "testdata/clash.golden", err.Error()+"\n")
}

func TestDirectoryWithoutAPolicy(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".hidden.yaml", "x_test.yaml", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "holds no file that ends in .yaml") {
		t.Errorf("%v", err)
	}
}

// A policy in several files is the policy in one.
func TestSplitDefault(t *testing.T) {
	text := string(defaultText)
	i, j := strings.Index(text, "\nthresholds:"), strings.Index(text, "\nresponses:")
	parts := []document.File{{Name: "a", Text: []byte(text[:i])}, {Name: "b", Text: []byte("version: 1\n" + text[i:j])}, {Name: "c", Text: []byte("version: 1\n" + text[j:])}}
	p, err := ParseFiles("default", parts)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vector.All() {
		if a, b := p.Explain(pfx("192.0.2.1"), v.ID, now), Default().Explain(pfx("192.0.2.1"), v.ID, now); a != b {
			t.Errorf("%s: split %s\nwhole %s", v.Name, a, b)
		}
	}
}

// Lists in lists multiply; they are bounded.
func TestManyConstants(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nconstants:\n  l: [" + strings.TrimSuffix(strings.Repeat("syn, ", 5000), ", ") + "]\nresponses: []\nthresholds:\n")
	for range 100 {
		b.WriteString("- {vectors: $l, pps: 1 kpps}\n")
	}
	if _, err := Parse("x", []byte(b.String())); err == nil || !strings.Contains(err.Error(), "constants stand for more than 100000 values") {
		t.Errorf("%.300v", err)
	}
}

// TestJSONSchema keeps the schema that editors read in step with the one that reads.
func TestJSONSchema(t *testing.T) {
	text, err := JSONSchema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "schema.json", string(text))
}

// FuzzFiles: no two texts make the reader panic, each problem names its file, and a policy in two files answers like one
// that is written from it.
func FuzzFiles(f *testing.F) {
	for _, dir := range []string{"testdata/site", "testdata/clash"} {
		files, err := Read(dir)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(files[0].Text, files[1].Text)
	}
	f.Add([]byte("version: 1\nconstants: {a: [x, $a]}\nthresholds: [$a]"), []byte("version: 1\nresponses: $a\ngroups: {$a: {prefixes: [[$a]]}}"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		files := []document.File{{Name: "a.yaml", Text: a}, {Name: "b.yaml", Text: b}}
		p, err := ParseFiles("dir", files)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "a.yaml:") && !strings.HasPrefix(line, "b.yaml:") && !strings.HasPrefix(line, "dir:") {
					t.Fatalf("a problem without its file: %q", line)
				}
			}
			return
		}
		file, report := readFiles("dir", files)
		written, err := document.Write(file.schema())
		if err != nil {
			t.Fatal(err)
		}
		one, err := Parse("one.yaml", written)
		if err != nil {
			t.Fatalf("%v\n%s", err, written)
		}
		for _, v := range vector.All() {
			for _, target := range []string{"203.0.113.1", "198.51.100.1", "2001:db8:9::1"} {
				inc := Incident{Target: pfx(target), Vector: v.ID, Measured: true, PPS: 3e5, Duration: 1e12, Sensors: 1, Hosts: 1, Test: "limit"}
				if x, y := p.ExplainIncident(inc, now), one.ExplainIncident(inc, now); x != y {
					t.Fatalf("in one file %q became %q\n%s", x, y, written)
				}
				if why := p.Why(inc, now); why.Path != "" && !report.Has(why.Path) {
					t.Fatalf("%s stands nowhere", why.Path)
				}
			}
		}
	})
}
