package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// disk is what the journal needs of a file system.
type disk interface {
	create(path string) (file, error) // a new file, for writing
	open(path string) (file, error)   // for reading and writing
	list(dir string) ([]fs.FileInfo, error)
	remove(path string) error
	free(dir string) (uint64, error)
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
}

// system is the real one.
type system struct{}

func (system) create(path string) (file, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (system) open(path string) (file, error) { return os.OpenFile(path, os.O_RDWR, 0) }

func (system) list(dir string) (out []fs.FileInfo, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			out = append(out, info)
		}
	}
	return out, err
}

func (system) remove(path string) error { return os.Remove(path) }

func (system) free(dir string) (uint64, error) { return freeSpace(dir) }

// lookEvery is how often segments are looked through for such as are too old, retryAfter how long a disk that could not be
// written is left alone.
const (
	lookEvery  = time.Minute
	retryAfter = 10 * time.Second
	// segmentAge is when a segment is ended though it is not full, as a share of the age at which it goes.
	segmentAge = 24
)

// segment is one file; the last one may be the one that is written.
type segment struct {
	number uint64
	size   int64
	first  time.Time // of its first block; zero while there is none
	last   time.Time // not later than its newest record was written
}

// store is the directory. The writer's goroutine owns it.
type store struct {
	o       Options
	m       *metrics
	all     []segment // oldest first
	total   int64
	next    uint64
	f       file // nil while none is written; its segment is the last of all
	began   time.Time
	failing error
	retry   time.Time
	listed  bool
}

func (s *store) path(n uint64) string { return filepath.Join(s.o.Dir, segmentName(n)) }

// begin takes stock, and cuts what a crash left incomplete.
func (s *store) begin() {
	infos, err := s.o.disk.list(s.o.Dir)
	if err != nil {
		s.note("list", err)
		return
	}
	s.listed = true
	for _, info := range infos {
		if n, ok := segmentNumber(info.Name()); ok {
			s.all = append(s.all, segment{n, info.Size(), s.firstOf(n), info.ModTime()})
			s.total += info.Size()
			s.next = max(s.next, n+1)
		}
	}
	s.next = max(s.next, 1)
	if n := len(s.all); n > 0 {
		s.note("cut the end of", s.cut(&s.all[n-1]))
	}
	s.expire(time.Now())
}

// cut shortens a segment to what is whole.
func (s *store) cut(g *segment) error {
	path := s.path(g.number)
	f, err := s.o.disk.open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, g.size)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	good, records, err := whole(b[:n])
	if err != nil {
		s.o.Log.Warn("the newest segment is none of ours; it is left as it is", "path", path, "err", err)
		return nil
	}
	torn := g.size - int64(good)
	if torn == 0 {
		return nil
	}
	if err := f.Truncate(int64(good)); err != nil {
		return err
	}
	s.total -= torn
	g.size = int64(good)
	s.m.torn.Add(float64(torn))
	s.o.Log.Warn("the journal ended within a write, as after a crash; that was cut off, all before it is whole",
		"path", path, "octets", torn, "left", good, "records", records)
	return nil
}

// note tells when writing begins to go wrong, and when it is well again.
func (s *store) note(attempt string, err error) {
	switch {
	case err != nil:
		s.m.errors.Inc()
		if s.failing == nil {
			s.o.Log.Error("the journal cannot be written: what is reported meanwhile cannot be replayed; look at the free space and the permissions",
				"dir", s.o.Dir, "attempt", attempt, "err", err)
		}
		s.failing = fmt.Errorf("journal: %s: %w", attempt, err)
		s.m.failing.Set(1)
		s.retry = time.Now().Add(retryAfter)
	case s.failing != nil:
		s.o.Log.Info("the journal is written again", "dir", s.o.Dir)
		s.failing = nil
		s.m.failing.Set(0)
	}
}

// write appends a block; what cannot be written is dropped, not kept, for memory is bounded too.
func (s *store) write(k *block) error {
	reports, samples := float64(k.reports), float64(uint64(k.records)-k.reports)
	lost := reports + samples
	err := s.failing
	if err == nil || !time.Now().Before(s.retry) {
		var attempt string
		attempt, err = s.append(k)
		s.note(attempt, err)
	}
	if err != nil {
		s.m.dropped.WithLabelValues(droppedDisk).Add(lost)
		return s.failing
	}
	s.m.records.WithLabelValues(recordsReport).Add(reports)
	s.m.records.WithLabelValues(recordsSamples).Add(samples)
	return nil
}

func (s *store) append(k *block) (attempt string, err error) {
	if !s.listed {
		if s.begin(); !s.listed {
			return "list", s.failing
		}
	}
	b, err := k.seal()
	if err != nil {
		return "compress", err
	}
	if int64(len(b)) > s.o.Size-int64(segmentHead) {
		return "write", fmt.Errorf("a block of %d octets is larger than the whole journal may be", len(b))
	}
	need := int64(len(b))
	if s.f != nil {
		if g := s.all[len(s.all)-1]; g.size+need > s.o.SegmentBytes && g.size > int64(segmentHead) || time.Since(s.began) > s.o.Age/segmentAge {
			if err := s.close(); err != nil {
				return "end a segment", err
			}
		}
	}
	if s.f == nil {
		need += int64(segmentHead)
	}
	for s.total+need > s.o.Size && len(s.all) > 0 {
		if len(s.all) == 1 && s.f != nil { // a single block that is nearly all of it
			if err := s.close(); err != nil {
				return "end a segment", err
			}
			need += int64(segmentHead)
		}
		if err := s.drop(); err != nil {
			return "make room", err
		}
	}
	if free, err := s.o.disk.free(s.o.Dir); err == nil && free < s.o.MinFree+uint64(need) {
		return "write", fmt.Errorf("the file system has %d MiB left, and %d MiB stay free for others", free>>20, s.o.MinFree>>20)
	}
	if s.f == nil {
		if err := s.create(); err != nil {
			return "begin a segment", err
		}
	}
	g := &s.all[len(s.all)-1]
	if _, err := s.f.WriteAt(b, g.size); err != nil {
		// What was written of it must not stand before what comes next; should this fail, the next block is written over it.
		if terr := s.f.Truncate(g.size); terr != nil {
			err = errors.Join(err, terr)
		}
		return "write", err
	}
	g.size += int64(len(b))
	g.last = time.Now()
	if g.first.IsZero() {
		g.first = nanos(k.first)
	}
	s.total += int64(len(b))
	s.m.written.Add(float64(len(b)))
	s.gauges()
	return "", nil
}

func (s *store) create() error {
	f, err := s.o.disk.create(s.path(s.next))
	if err != nil {
		return err
	}
	head := append([]byte(segmentMagic), version)
	if _, err := f.WriteAt(head, 0); err != nil {
		return errors.Join(err, f.Close(), s.o.disk.remove(s.path(s.next)))
	}
	now := time.Now()
	s.f, s.began = f, now
	s.all = append(s.all, segment{s.next, int64(len(head)), time.Time{}, now})
	s.total += int64(len(head))
	s.next++
	return nil
}

// expire ends the segment when it is old, and deletes what is too old.
func (s *store) expire(now time.Time) {
	var err error
	if s.f != nil && now.Sub(s.began) > s.o.Age/segmentAge && s.all[len(s.all)-1].size > int64(segmentHead) {
		err = s.close()
	}
	for err == nil && len(s.all) > 0 && now.Sub(s.all[0].last) > s.o.Age && (s.f == nil || len(s.all) > 1) {
		err = s.drop()
	}
	if err != nil {
		s.note("delete what is too old", err)
	}
	s.gauges()
}

// drop deletes the oldest segment.
func (s *store) drop() error {
	g := s.all[0]
	if err := s.o.disk.remove(s.path(g.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.all = append(s.all[:0], s.all[1:]...)
	s.total -= g.size
	s.m.deleted.Inc()
	return nil
}

// close ends the segment that is written.
func (s *store) close() error {
	if s.f == nil {
		return nil
	}
	err := errors.Join(s.f.Sync(), s.f.Close())
	s.f = nil
	return err
}

// firstOf is the time of the first record of a segment, or zero where it cannot be told.
func (s *store) firstOf(n uint64) time.Time {
	f, err := s.o.disk.open(s.path(n))
	if err != nil {
		return time.Time{}
	}
	defer f.Close()
	var b [segmentHead + blockHead]byte
	if _, err := f.ReadAt(b[:], 0); err != nil || checkHead(b[:]) != nil {
		return time.Time{}
	}
	if h, ok := parseHeader(b[segmentHead:]); ok {
		return nanos(h.first)
	}
	return time.Time{}
}

func (s *store) gauges() {
	oldest := 0.0
	for _, g := range s.all {
		if !g.first.IsZero() {
			oldest = float64(g.first.UnixNano()) / 1e9
			break
		}
	}
	s.m.oldest.Set(oldest)
	s.m.size.Set(float64(s.total))
	s.m.segments.Set(float64(len(s.all)))
}
