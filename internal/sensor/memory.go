package sensor

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// threads is how many threads run Go at the same time. One reads counters, one sends; more would only spread the
// sensor, with its caches and timers, over the CPUs of the customers.
const threads = 2

// garbage is how much may lie around before it is collected, in percent of what lives; Go begins at 4 MiB times it. What
// lives is about 2 MB: while nothing happens a collection, of a millisecond or two, is due four times a minute, and under
// a flood, when samples are most of the garbage, once or twice a second.
const garbage = 33

// buffers are the sizes of those that messages are written to, as powers of two. gRPC's own have nothing between 32 KiB
// and 1 MiB, which each report of many targets would take.
var buffers = []uint8{8, 12, 14, 15, 16, 17, 18, 20}

// Confine makes this process a small one: garbage is collected more often rather than more memory taken than limit,
// in bytes, and Go runs on two threads at most. GOMAXPROCS and GOGC in the environment prevail. Which code takes memory
// is noted only if profiled says that somebody may ask: the notes are half a megabyte.
func Confine(limit int64, profiled bool) {
	debug.SetMemoryLimit(limit)
	if !profiled {
		runtime.MemProfileRate = 0
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	if pool, err := mem.NewBinaryTieredBufferPool(buffers...); err == nil { // cannot fail for these sizes
		experimental.SetDefaultBufferPool(pool)
	}
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) > threads {
		runtime.GOMAXPROCS(threads)
	}
}

// sayMemory gives back what only the start needed, and logs what is left beside what the kernel holds.
func (a *agent) sayMemory() {
	debug.FreeOSMemory() // loading the programs needs a few megabytes that are never needed again,
	unmap(ownProgram())  // and code that runs once
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
	all, _ := resident()
	return all
}

// resident is the memory of this process that is in RAM, and what of it is of files: our program, and maps of the kernel.
func resident() (all, files uint64) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0
	}
	return parseStatm(text)
}

// parseStatm reads the second and third field of proc(5) statm, which count pages.
func parseStatm(text []byte) (all, files uint64) {
	fields := bytes.Fields(text)
	if len(fields) < 3 {
		return 0, 0
	}
	all, err1 := strconv.ParseUint(string(fields[1]), 10, 64)
	files, err2 := strconv.ParseUint(string(fields[2]), 10, 64)
	if err1 != nil || err2 != nil {
		return 0, 0
	}
	page := uint64(os.Getpagesize())
	return all * page, files * page
}

// programMost is how much of our program may be in memory before it is taken out again: more than it needs at rest, where
// nothing is to be done, and less than a collection of garbage and reports under a flood bring in together.
const programMost = 7 << 20

// slimness keeps our program's share of the memory small.
type slimness struct {
	program []mapping
	others  uint64 // bytes of other files, which is what is left when the program has just been taken out
}

// due tells whether so many bytes of files hold too much of our program.
func (s *slimness) due(files uint64) bool { return len(s.program) > 0 && files > s.others+programMost }

// start takes the program out for the first time, and keep whenever it is due.
func (s *slimness) start() {
	s.program = ownProgram()
	unmap(s.program)
	_, s.others = resident()
}

func (s *slimness) keep() {
	_, files := resident()
	if !s.due(files) {
		return
	}
	unmap(s.program)
	// More is no news: under a flood much of the program is back before it has been looked.
	if _, left := resident(); left < s.others {
		s.others = left
	}
}

// ownProgram finds the mappings of our program that can be taken out; none where it is not sure.
func ownProgram() []mapping {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return nil
	}
	return programMappings(string(text), self)
}

// unmap takes the pages of our own program out of this process's memory; those that are used come back from the
// page cache with the next access, for some hundred nanoseconds. Reading the configuration, loading programs and a
// kernel that maps what lies around each access had brought in nearly all of it, more than all else the sensor holds.
func unmap(program []mapping) {
	for _, m := range program {
		// Advice: when it is not taken, nothing is lost.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.length, unix.MADV_DONTNEED)
	}
}

type mapping struct{ start, length uintptr }

// programMappings finds in smaps(5) the mappings of a file that nobody can have written to: a page that was, by a loader
// say, would not come back.
func programMappings(smaps, file string) (list []mapping) {
	var now mapping // of the file, and read-only; zero otherwise
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 5 && strings.Contains(fields[0], "-"):
			now = mapping{}
			first, last, _ := strings.Cut(fields[0], "-")
			start, err1 := strconv.ParseUint(first, 16, 64)
			end, err2 := strconv.ParseUint(last, 16, 64)
			name := strings.Join(fields[min(5, len(fields)):], " ")
			if err1 == nil && err2 == nil && end > start && name == file && (fields[1] == "r-xp" || fields[1] == "r--p") {
				now = mapping{uintptr(start), uintptr(end - start)}
			}
		case len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" && now.length > 0:
			list = append(list, now)
		}
	}
	return list
}
