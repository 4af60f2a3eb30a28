package sensor

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
)

// threads is how many threads run Go at the same time. One reads counters, one sends; more would only spread the
// sensor, with its caches and timers, over the CPUs of the customers.
const threads = 2

// Confine makes this process a small one: garbage is collected more often rather than more memory taken than limit,
// in bytes, and Go runs on two threads at most. GOMAXPROCS in the environment prevails.
//
// GOGC stays at 100: the live heap of a sensor is smaller than the 4 MiB from which on Go collects at all, so a lower value
// changes CPU time and not memory.
func Confine(limit int64) {
	debug.SetMemoryLimit(limit)
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) > threads {
		runtime.GOMAXPROCS(threads)
	}
}

// sayMemory gives back what only the start needed, and logs what is left beside what the kernel holds.
func (a *agent) sayMemory() {
	debug.FreeOSMemory() // loading the programs needs a few megabytes that are never needed again
	limit := debug.SetMemoryLimit(-1)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	a.o.Log.Info("memory", "resident_bytes", residentBytes(), "limit_bytes", limit, "heap_bytes", m.HeapAlloc, "map_bytes", a.mapBytes)
	if m.HeapAlloc > uint64(limit)/2 {
		a.o.Log.Warn("memory_limit is too low for so many slots and prefixes: the process will spend CPU time on collecting garbage",
			"limit_bytes", limit, "heap_bytes", m.HeapAlloc, "remedy", "set memory_limit to four times heap_bytes")
	}
}

// residentBytes is the memory of this process that is in RAM; 0 where /proc is not to be read.
func residentBytes() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
