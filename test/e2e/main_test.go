// Package e2e tests the real binaries against real routers, FRR and BIRD, in network namespaces.
package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// binDir is where the binaries are: $TM_BIN, or where TestMain had them built.
var binDir string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	binDir = os.Getenv("TM_BIN")
	// Without root every test skips itself, or fails where CI=true, and needs no binaries for that.
	if binDir == "" && os.Geteuid() == 0 {
		// Named so that the next lab clears it away should this process be killed.
		dir := filepath.Join(os.TempDir(), fmt.Sprintf("tm-%dx0-bin", os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binDir = dir
		kept.Store(dir, true)
	}
	if binDir != "" {
		abs, err := filepath.Abs(binDir)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		binDir = abs
	}
	code := m.Run()
	if left := leftovers(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "the tests left behind:\n\t%s\n", strings.Join(left, "\n\t"))
		return 1
	}
	return code
}

var buildOnce = sync.OnceValue(func() error {
	if os.Getenv("TM_BIN") != "" {
		return nil
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version=e2e", "-o", binDir+"/", "./cmd/controller", "./cmd/sensor", "./cmd/tmctl")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
})

// program returns the path of one of our programs.
func program(t testing.TB, name string) string {
	t.Helper()
	if err := buildOnce(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(binDir, name)
}

// need skips the test where it cannot run, and fails it there when CI=true.
func need(t testing.TB) {
	t.Helper()
	lab.NeedRoot(t)
	lab.NeedTool(t, "ip", "bird", "bgpd", "zebra", "staticd", "vtysh", "nft")
}

// leftovers lists what outlived its test: processes with our binaries or with the mark of one of our labs, namespaces
// and run directories of our labs.
func leftovers() (left []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	ours := fmt.Sprintf("TRAFFICMONITOR_LAB=tm-%d", os.Getpid())
	for _, d := range dirs {
		exe, _ := os.Readlink(d + "/exe")
		env, _ := os.ReadFile(d + "/environ")
		mark := slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool { return isOf(string(v), ours) })
		built := binDir != "" && os.Getenv("TM_BIN") == "" && strings.HasPrefix(exe, binDir+"/")
		if mark || built {
			cmd, _ := os.ReadFile(d + "/cmdline")
			left = append(left, fmt.Sprintf("process %s: %s", filepath.Base(d), bytes.ReplaceAll(cmd, []byte{0}, []byte{' '})))
		}
	}
	for _, dir := range []string{"/run/netns", os.TempDir()} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if _, ok := kept.Load(path); !ok && isOf(e.Name(), fmt.Sprintf("tm-%d", os.Getpid())) {
				left = append(left, path)
			}
		}
	}
	return left
}

// isOf reports whether a name is a lab's of this process: tm-PID or tm-PIDxN, with or without more behind it.
func isOf(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && (rest == "" || rest[0] == 'x' || rest[0] == '-')
}

// kept are the directories that are not left behind by mistake: of our binaries, and of failed tests.
var kept sync.Map
