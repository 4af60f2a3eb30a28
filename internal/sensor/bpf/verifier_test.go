package bpf

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "record what the verifier makes of the programs on this kernel")

// record holds, per series of kernels ("6.1") and program, what loading it costs. Each kernel's verifier counts in its own way.
type record map[string]map[string]cost

type cost struct {
	Verified uint32 `json:"verified"` // instructions that the verifier walked, over all paths
	Bytes    int    `json:"bytes"`    // of the program as the kernel holds it
}

const recordFile = "testdata/verifier.json"

const (
	// A kernel refuses a program of which it would have to walk a million instructions. Kernels that we do not know may
	// walk twice what these do.
	mostVerified = 500_000
	// Growth that nobody needs to accept: 10 %.
	growth = 1.10
)

// programs are all that the sensor loads, by the names of their functions.
func programs(k *Kernel) map[string]*ebpf.Program {
	all := map[string]*ebpf.Program{}
	v := reflect.ValueOf(k.objects.SensorPrograms)
	for i := range v.NumField() {
		all[v.Type().Field(i).Tag.Get("ebpf")] = v.Field(i).Interface().(*ebpf.Program)
	}
	return all
}

// series returns the running kernel's major.minor.
func series(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	s := regexp.MustCompile(`^\d+\.\d+`).FindString(release)
	if s == "" {
		t.Fatalf("kernel release %q begins with no major.minor", release)
	}
	return s
}

// A program that grows costs each packet more, and one day some kernel refuses it.
func TestVerifierCounts(t *testing.T) {
	known := record{}
	b, err := os.ReadFile(recordFile)
	if err == nil {
		err = json.Unmarshal(b, &known)
	}
	if err != nil && !(*update && errors.Is(err, fs.ErrNotExist)) {
		t.Fatal(err)
	}
	kernel := series(t)
	now := map[string]cost{}
	for name, p := range programs(load(t)) {
		now[name] = costOf(t, p)
		t.Logf("kernel %s: %-16s %6d instructions verified, %5d bytes", kernel, name, now[name].Verified, now[name].Bytes)
	}
	for _, complaint := range compare(known[kernel], now, *update) {
		t.Error(complaint)
	}
	switch {
	case *update && !t.Failed():
		known[kernel] = now
		b, err := json.MarshalIndent(known, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(recordFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	case known[kernel] == nil:
		t.Logf("%s knows no kernel %s: only the limit of %d instructions was tested", recordFile, kernel, mostVerified)
	}
}

func costOf(t *testing.T, p *ebpf.Program) cost {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	verified, ok := info.VerifiedInstructions()
	if !ok {
		t.Fatal("this kernel does not say what its verifier walked: it is older than Linux 5.16")
	}
	size, err := info.TranslatedSize()
	if err != nil {
		t.Fatal(err)
	}
	return cost{verified, size}
}

// compare says what is wrong with the present costs. A nil record is that of an unknown kernel; accept asks only for the limit.
func compare(recorded, now map[string]cost, accept bool) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	const how = `accept it with "go test ./internal/sensor/bpf -run TestVerifierCounts -update" as root and "make test-kernels UPDATE=1"`
	for name, n := range now {
		if n.Verified > mostVerified {
			complain("%s: the verifier walked %d instructions; above %d other kernels may refuse it", name, n.Verified, mostVerified)
		}
		if recorded == nil || accept {
			continue
		}
		was, ok := recorded[name]
		switch {
		case !ok:
			complain("%s has no record; %s", name, how)
		case float64(n.Verified) > float64(was.Verified)*growth:
			complain("%s: the verifier walked %d instructions, on record are %d; %s", name, n.Verified, was.Verified, how)
		case float64(n.Bytes) > float64(was.Bytes)*growth:
			complain("%s is %d bytes long, on record are %d; %s", name, n.Bytes, was.Bytes, how)
		}
	}
	for name := range recorded {
		if _, ok := now[name]; !ok && !accept {
			complain("%s is on record and no longer a program; %s", name, how)
		}
	}
	return complaints
}

func TestVerifierCountsCompared(t *testing.T) {
	recorded := map[string]cost{"a": {1000, 800}}
	for _, tc := range []struct {
		name     string
		recorded map[string]cost
		now      map[string]cost
		accept   bool
		want     int
	}{
		{"as it was", recorded, map[string]cost{"a": {1000, 800}}, false, 0},
		{"a tenth more", recorded, map[string]cost{"a": {1100, 880}}, false, 0},
		{"walks more", recorded, map[string]cost{"a": {1101, 800}}, false, 1},
		{"longer", recorded, map[string]cost{"a": {1000, 881}}, false, 1},
		{"accepted", recorded, map[string]cost{"a": {2000, 900}}, true, 0},
		{"less", recorded, map[string]cost{"a": {10, 8}}, false, 0},
		{"another", recorded, map[string]cost{"a": {1000, 800}, "b": {1, 8}}, false, 1},
		{"gone", recorded, map[string]cost{}, false, 1},
		{"unknown kernel", nil, map[string]cost{"a": {9000, 800}}, false, 0},
		{"unknown kernel, too many", nil, map[string]cost{"a": {mostVerified + 1, 800}}, false, 1},
		{"too many to accept", recorded, map[string]cost{"a": {mostVerified + 1, 800}}, true, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := compare(tc.recorded, tc.now, tc.accept); len(got) != tc.want {
				t.Errorf("%d complaints, want %d: %q", len(got), tc.want, got)
			}
		})
	}
}
