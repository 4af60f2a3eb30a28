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
	"golang.org/x/sys/unix"
)

// longestGap is how long before the present what was counted while no sensor ran may begin to be reported still: a
// controller takes no report of a longer span.
const longestGap = 4 * time.Minute

// checkpoint keeps how far the reports have come, so that the process that adopts pinned counters goes on reporting where
// this one ended, however it ended. It is written before the report it covers is sent: a crash in between loses that
// report, and nothing is ever reported twice. It lies in memory (tmpfs), as pinned maps do, and is not worth an fsync.
//
// The file is a row of notes, each with its time and length: the first holds all that was told, the others what was told since the one
// before, for at most times little is. A note that is cut off was about a report that was not sent.
type checkpoint struct {
	path   string // empty for none
	buffer []byte
	file   *os.File // notes are added to it; nil: the next is the first of a new one
	most   int64    // octets from which on a new file is begun
	size   int64
}

// teller is what a checkpoint notes: see [bpf.Kernel].
type teller interface {
	AppendTold(b []byte) []byte
	AppendNews(b []byte) ([]byte, bool)
}

const noteHeader = 8 + 4 // time, nanoseconds since 1970, and octets that follow

// roomForNews is how much longer than needed a file may become, in octets of memory: an hour and a half of a sensor at rest.
const roomForNews = 64 << 10

// save notes that all a scan told before now is reported. When it cannot be written there must be none, for the one
// before would have the next process report the same again.
func (c *checkpoint) save(now time.Time, t teller) error {
	if c.path == "" {
		return nil
	}
	if c.file != nil && c.size < c.most && c.there() {
		if note, ok := t.AppendNews(c.begin(now)); ok {
			return c.write(note)
		}
	}
	return c.renew(t.AppendTold(c.begin(now)))
}

// there tells whether the next process would find what is added to the file: somebody may have removed it.
func (c *checkpoint) there() bool {
	var st unix.Stat_t
	return unix.Fstat(int(c.file.Fd()), &st) != nil || st.Nlink > 0
}

// begin is the header of a note; its length is not known yet.
func (c *checkpoint) begin(now time.Time) []byte {
	return append(binary.LittleEndian.AppendUint64(c.buffer[:0], uint64(now.UnixNano())), 0, 0, 0, 0)
}

// renew begins a new file with a note.
func (c *checkpoint) renew(note []byte) error {
	c.close()
	fresh := c.path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return errors.Join(fmt.Errorf("note what is reported: %w", err), c.remove())
	}
	c.file, c.size, c.most = f, 0, 2*int64(len(note))+roomForNews
	if err := c.write(note); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.Rename(fresh, c.path); err != nil {
		return errors.Join(fmt.Errorf("note what is reported: %w", err), c.remove(), os.RemoveAll(fresh))
	}
	return nil
}

// write adds a note to the file.
func (c *checkpoint) write(note []byte) error {
	c.buffer = note
	binary.LittleEndian.PutUint32(note[8:], uint32(len(note)-noteHeader))
	n, err := c.file.Write(note)
	c.size += int64(n)
	if err != nil {
		return errors.Join(fmt.Errorf("note what is reported: %w", err), c.remove())
	}
	return nil
}

func (c *checkpoint) close() {
	if c.file != nil {
		_ = c.file.Close() // nothing is buffered
		c.file = nil
	}
}

func (c *checkpoint) remove() error {
	c.close()
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
	told, at, ok := readNotes(b)
	if !ok {
		return nil, at, fmt.Errorf("read what was reported: %s has %d octets, and no whole note", c.path, len(b))
	}
	return told, at, nil
}

// readNotes returns what notes say together, and the time of the last that is whole; false if none is.
func readNotes(b []byte) (told []byte, at time.Time, ok bool) {
	told = []byte{}
	for len(b) >= noteHeader {
		length := uint64(binary.LittleEndian.Uint32(b[8:]))
		if uint64(len(b)-noteHeader) < length {
			break
		}
		at, ok = time.Unix(0, int64(binary.LittleEndian.Uint64(b))), true
		told = append(told, b[noteHeader:noteHeader+length]...)
		b = b[noteHeader+length:]
	}
	return told, at, ok
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
	a.note(a.checkpoint.save(now, a.kernel))
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
