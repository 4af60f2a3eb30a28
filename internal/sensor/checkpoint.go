package sensor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// longestGap is how long before the present what was counted while no sensor ran may begin to be reported still: a
// controller takes no report of a longer span.
const longestGap = 4 * time.Minute

// checkpoint keeps how far the reports have come, so that the process that adopts pinned counters goes on reporting where
// this one ended, however it ended. It is written before the report it covers is sent: a crash in between loses that
// report, and nothing is ever reported twice. It lies in memory (tmpfs), as pinned maps do, and is not worth an fsync.
type checkpoint struct {
	path   string // empty for none
	buffer []byte
}

// save notes that all a scan told before now is reported. When it cannot be written there must be none, for the one
// before would have the next process report the same again.
func (c *checkpoint) save(now time.Time, told func(b []byte) []byte) error {
	if c.path == "" {
		return nil
	}
	c.buffer = told(binary.LittleEndian.AppendUint64(c.buffer[:0], uint64(now.UnixNano())))
	fresh := c.path + ".new"
	err := os.WriteFile(fresh, c.buffer, 0o600)
	if err == nil {
		err = os.Rename(fresh, c.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("note what is reported: %w", err), c.remove(), os.RemoveAll(fresh))
	}
	return nil
}

func (c *checkpoint) remove() error {
	if c.path == "" {
		return nil
	}
	if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what was noted as reported: %w", err)
	}
	return nil
}

// load returns what an earlier process noted, and when; nil if there is nothing.
func (c *checkpoint) load() (told []byte, at time.Time, err error) {
	if c.path == "" {
		return nil, at, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o755); err != nil {
		return nil, at, fmt.Errorf("make the directory for what is reported: %w", err)
	}
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, fmt.Errorf("read what was reported: %w", err)
	}
	if len(b) < 8 {
		return nil, at, fmt.Errorf("read what was reported: %s holds only %d octets", c.path, len(b))
	}
	return b[8:], time.Unix(0, int64(binary.LittleEndian.Uint64(b))), nil
}

// resume lets the meter go on where an earlier process ended.
func (a *agent) resume() {
	if a.kernel.Reused {
		a.forget()
	}
	if a.pins.Pins == nil {
		a.checkpoint.path = ""
		return
	}
	told, at, err := a.checkpoint.load()
	switch age := a.started.Sub(at); {
	case err != nil || !a.kernel.Reused:
	case told == nil:
		err = errors.New("it left no note of how far its reports had come")
	case age < 0 || age > longestGap:
		err = fmt.Errorf("its last report is from %s, too long ago to be told from the present", at.Format(time.RFC3339))
	default:
		if err = a.kernel.Resume(told); err == nil {
			a.meter.since = at
			a.o.Log.Info("reports go on where an earlier run ended", "at", at)
			return
		}
	}
	if err != nil && a.kernel.Reused {
		a.o.Log.Warn("what was counted since an earlier run's last report is in the totals only, not in reports", "err", err)
	}
	// A note that was not used must not be used by the next.
	if err := a.checkpoint.remove(); err != nil {
		a.o.Log.Warn("the next run may report some counts twice", "err", err)
	}
}

// forget throws away samples that wait in a pinned ring since a time when nobody read it.
func (a *agent) forget() {
	var record ringbuf.Record
	for a.samples.AvailableBytes() > 0 && a.samples.ReadInto(&record) == nil {
	}
}

// report ends the interval: notes it and sends it.
func (a *agent) report(now time.Time) {
	r := a.meter.interval(now)
	r.Counters = a.metrics.counters.Load()
	a.note(a.checkpoint.save(now, a.kernel.AppendTold))
	a.send(r, worthInterval, 0)
}

// finish reports what was counted since the last report; the rest is the next process's to report.
func (a *agent) finish() {
	now := time.Now()
	if err := a.meter.scan(now); err != nil {
		a.note(err)
		return
	}
	a.note(a.count())
	a.report(now)
}
