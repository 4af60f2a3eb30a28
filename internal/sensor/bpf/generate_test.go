package bpf

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// TestObjectsAreWhatTheSourceSays compiles the programs again, elsewhere, and compares every octet.
func TestObjectsAreWhatTheSourceSays(t *testing.T) {
	lab.NeedTool(t, "clang-14", "llvm-strip-14")
	lab.NeedFile(t, "/usr/include/bpf/bpf_helpers.h")
	dir := t.TempDir()
	cmd := exec.Command("sh", "generate.sh", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("generate.sh: %v\n%s", err, out)
	}
	for _, name := range []string{
		"sensor_bpfel.go", "sensor_bpfel.o", "probe_bpfel_test.go", "probe_bpfel_test.o", "floor/floor_bpfel.go", "floor/floor_bpfel.o", "floor/drive_bpfel.go", "floor/drive_bpfel.o",
	} {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what its source compiles to: run make generate", name)
		}
	}
}
