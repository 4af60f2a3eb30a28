package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// file is the current file of the record. The writer owns it.
type file struct {
	path  string
	f     *os.File // nil while it cannot be opened
	size  int64
	dirty bool // written since the last sync
	max   int64
	keep  int
	m     *metrics
}

func openFile(path string, o Options, m *metrics) (*file, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f := &file{path: path, max: o.MaxBytes, keep: o.MaxFiles, m: m}
	return f, f.open()
}

// open opens the file for appending. A line that a crash cut short is ended, so that the next one stands alone.
func (f *file) open() error {
	h, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := h.Stat()
	if err != nil {
		return errors.Join(err, h.Close())
	}
	size := st.Size()
	if size > 0 {
		var last [1]byte
		if _, err := h.ReadAt(last[:], size-1); err != nil {
			return errors.Join(err, h.Close())
		}
		if last[0] != '\n' {
			if _, err := h.Write([]byte{'\n'}); err != nil {
				return errors.Join(err, h.Close())
			}
			size++
		}
	}
	f.f, f.size = h, size
	f.m.size.Set(float64(size))
	return nil
}

// tailBytes is how much of the file's end is read at the start.
const tailBytes = 1 << 20

// readTail gives the events at the end of the file to add; lines it cannot read are left out.
func (f *file) readTail(add func(Event)) error {
	from := max(f.size-tailBytes, 0)
	b := make([]byte, f.size-from)
	if _, err := f.f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if from > 0 {
		_, b, _ = bytes.Cut(b, []byte{'\n'})
	}
	for line := range bytes.Lines(b) {
		var e Event
		if json.Unmarshal(line, &e) == nil {
			add(e)
		}
	}
	return nil
}

// append writes whole lines, after a rotation when they would not fit.
func (f *file) append(lines []byte) error {
	if f.f == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	if f.size > 0 && f.size+int64(len(lines)) > f.max {
		if err := f.rotate(); err != nil {
			// Better a file that is too long than a record that ends.
			f.m.errors.Inc()
			if f.f == nil {
				return err
			}
		}
	}
	n, err := f.f.Write(lines)
	f.size += int64(n)
	f.dirty = f.dirty || n > 0
	f.m.size.Set(float64(f.size))
	if err != nil {
		// The next write begins with a fresh handle, and a line of its own.
		err = errors.Join(err, f.f.Close())
		f.f = nil
	}
	return err
}

// rotate puts the full file aside as .1, what was .1 as .2 and so on, and begins a new one.
func (f *file) rotate() error {
	name := func(i int) string { return fmt.Sprintf("%s.%d", f.path, i) }
	if err := f.sync(); err != nil {
		return err
	}
	for i := f.keep - 1; i >= 1; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(f.path, name(1)); err != nil {
		return err
	}
	err := f.f.Close()
	f.f, f.dirty = nil, false
	f.m.rotations.Inc()
	return errors.Join(err, f.open(), syncDir(filepath.Dir(f.path)))
}

// sync forces what was written to disk.
func (f *file) sync() error {
	if f.f == nil {
		return nil
	}
	if f.dirty {
		if err := f.f.Sync(); err != nil {
			return err
		}
		f.dirty = false
	}
	return nil
}

// moved reports whether the path leads to another file than the one that is open, for somebody moved or deleted that.
func (f *file) moved() bool {
	if f.f == nil {
		return false
	}
	ours, err := f.f.Stat()
	if err != nil {
		return true
	}
	theirs, err := os.Stat(f.path)
	return err != nil || !os.SameFile(ours, theirs)
}

func (f *file) close() error {
	if f.f == nil {
		return nil
	}
	err := errors.Join(f.sync(), f.f.Close())
	f.f = nil
	return err
}

// syncDir makes renames durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Bounds of one write.
const (
	maxBatch      = 512
	maxBatchBytes = 1 << 20
)

// write is the goroutine that owns the file.
func (l *Log) write(f *file, o Options) {
	defer close(l.done)
	tick := time.NewTicker(o.SyncEvery)
	defer tick.Stop()
	failing := false
	note := func(what string, err error) error {
		switch {
		case err == nil && failing && what == "write": // a sync of nothing proves nothing
			o.Log.Info("audit file is written again", "path", f.path)
			failing = false
		case err != nil:
			l.m.errors.Inc()
			if !failing {
				o.Log.Error("audit file cannot be written: decisions go on unrecorded; look at the free space and the permissions", "path", f.path, "attempt", what, "err", err)
			}
			failing = true
		}
		return err
	}
	var buf []byte
	for {
		select {
		case e := <-l.queue:
			buf = buf[:0]
			events := uint64(0)
			answers := make([]chan error, 0, 1)
			end := false
			for n := 0; ; n++ {
				switch {
				case e.synced == nil:
					buf = appendLine(buf, e.event, o.Log)
					events++
				default:
					answers = append(answers, e.synced)
					end = e.event.Kind == Stopped
				}
				if end || n == maxBatch || int64(len(buf)) > min(maxBatchBytes, o.MaxBytes) || len(l.queue) == 0 {
					break
				}
				e = <-l.queue
			}
			var err error
			if len(buf) > 0 {
				if err = note("write", f.append(buf)); err != nil {
					l.m.lost.WithLabelValues(lostFile).Add(float64(events))
					l.mu.Lock()
					l.lost += events
					l.mu.Unlock()
				}
			}
			if err == nil && (o.Sync == SyncAlways || len(answers) > 0) {
				err = note("sync", f.sync())
			}
			if end {
				err = errors.Join(err, f.close())
			}
			for _, a := range answers {
				a <- err
			}
			if end {
				return
			}
		case <-tick.C:
			if o.Sync == SyncInterval {
				_ = note("sync", f.sync())
			}
			if f.moved() {
				_ = note("reopen", errors.Join(f.close(), f.open()))
			}
		}
	}
}

func appendLine(buf []byte, e Event, log *slog.Logger) []byte {
	b, err := json.Marshal(e)
	if err != nil { // a time outside the years 0 to 9999
		log.Error("event cannot be written", "kind", string(e.Kind), "err", err)
		return buf
	}
	return append(append(buf, b...), '\n')
}
