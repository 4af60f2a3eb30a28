package sensor

import (
	"os"
	"runtime"
	"strings"
)

// realtimeFile says "1" on a kernel with PREEMPT_RT.
const realtimeFile = "/sys/kernel/realtime"

// unsupported says what of this machine the counters rely on and nobody has tried; empty for nothing. See docs/adr/0010.
func unsupported(arch, realtime string) string {
	var what []string
	if arch != "amd64" {
		what = append(what, "the reader relies on stores being seen in order, as on amd64, and this is "+arch)
	}
	if strings.TrimSpace(realtime) == "1" {
		what = append(what, "the kernel has PREEMPT_RT, with which two packets may be counted on one CPU at once")
	}
	return strings.Join(what, "; ")
}

// sayUnsupported warns on such a machine.
func (a *agent) sayUnsupported() {
	realtime, _ := os.ReadFile(realtimeFile) // there is none on other kernels
	if why := unsupported(runtime.GOARCH, string(realtime)); why != "" {
		a.o.Log.Warn("this machine is not supported: counts may be wrong", "reason", why)
	}
}
