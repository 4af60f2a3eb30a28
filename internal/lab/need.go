// Package lab builds small networks out of namespaces, veth pairs and real routers, and sends bounded traffic through
// them. The demo, the end-to-end tests and the benchmarks use it; the product does not.
package lab

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// NeedRoot skips a test that lacks root, and fails it where CI=true, for there a skip would hide a broken check.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
}

// NeedTool skips a test on a machine that lacks one of the programs, and fails it where CI=true.
func NeedTool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if FindTool(name) == "" {
			skip(t, "needs "+name+": scripts/deps.sh installs it")
		}
	}
}

// NeedFile skips a test on a machine that lacks a file, and fails it where CI=true.
func NeedFile(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		skip(t, "needs "+path+": scripts/deps.sh installs it")
	}
}

// NeedCPUs skips a test on a machine with fewer processors, and fails it where CI=true.
func NeedCPUs(t testing.TB, n int) {
	t.Helper()
	if has := runtime.NumCPU(); has < n {
		skip(t, fmt.Sprintf("needs %d processors, and there are %d", n, has))
	}
}

// FindTool returns the path of a program, looking also where Debian keeps daemons; empty when there is none.
func FindTool(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	for _, dir := range []string{"/usr/sbin/", "/usr/lib/frr/", "/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p
		}
	}
	return ""
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s, and CI=true forbids skipping", why)
	}
	t.Skip(why)
}
