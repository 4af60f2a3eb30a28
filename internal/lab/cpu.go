package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// FloodCPU is the processor to pin floods to: the last one.
func FloodCPU() int { return runtime.NumCPU() - 1 }

// KeepFree keeps this process, and the processes it starts from now on, off a processor, so that a flood pinned to it
// slows down nothing but what its packets pass: in a real network attackers, routers and controllers share no
// processor. With a single processor it does nothing. restore takes it back for this process.
func KeepFree(cpu int) (restore func() error, err error) {
	var was unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		return nil, fmt.Errorf("read the processors we may use: %w", err)
	}
	others := was
	others.Clear(cpu)
	if others.Count() == 0 {
		return func() error { return nil }, nil
	}
	return func() error { return setAffinity(was) }, setAffinity(others)
}

// setAffinity sets the processors of all threads of this process; threads made later inherit them.
func setAffinity(set unix.CPUSet) error {
	var errs []error
	for range 2 { // threads made while we looked are found the second time
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
