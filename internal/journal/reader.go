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

// Damage is what could not be read. What follows it can: call Next again.
type Damage struct {
	Segment        string // its path
	Offset, Length int64  // what is damaged of it
	Err            error
}

func (d *Damage) Error() string {
	return fmt.Sprintf("journal: %s: octets %d to %d are lost: %v", d.Segment, d.Offset, d.Offset+d.Length, d.Err)
}

// Unwrap returns the cause.
func (d *Damage) Unwrap() error { return d.Err }

var errDeleted = errors.New("it, or what follows it, was deleted before it was read")

// Reader reads a journal from its oldest record on, also one that is being written. It is not safe for concurrent use.
type Reader struct {
	dir      string
	from, to time.Time
	todo     []uint64 // segments after the current one
	current  uint64   // number of the segment; 0 before the first
	path     string
	rest     []byte // of the segment, not looked at yet
	offset   int64  // of rest
	head     bool   // the segment's was read
	dec      *decoder
	left     uint32 // records of the block
	at       int64  // offset of the block
	length   int64  // of the block
}

// Open opens the journal in a directory. There need not be a segment yet.
func Open(dir string) (*Reader, error) {
	r := &Reader{dir: dir}
	if err := r.list(); err != nil {
		return nil, fmt.Errorf("journal: open %s: %w", dir, err)
	}
	return r, nil
}

// Between leaves out what was received before from or after to; a zero time is no bound. It holds from the next record on.
func (r *Reader) Between(from, to time.Time) { r.from, r.to = from, to }

// list looks for segments behind the current one.
func (r *Reader) list() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	r.todo = r.todo[:0]
	for _, n := range segments(names) {
		if n > r.current {
			r.todo = append(r.todo, n)
		}
	}
	return nil
}

// Next returns the next record. A *[Damage] says what was passed over; io.EOF that there is no more yet, and a later call
// looks again. The end of the newest segment may be incomplete because it is being written, which is no damage.
func (r *Reader) Next() (Record, error) {
	for {
		if r.left > 0 {
			r.left--
			rec, err := r.dec.record()
			if err == nil && r.left == 0 && !r.dec.done() {
				err = errors.New("there is something behind the last record of a block")
			}
			if err != nil {
				r.left = 0
				return Record{}, &Damage{r.path, r.at, r.length, err}
			}
			if !r.from.IsZero() && rec.Time.Before(r.from) || !r.to.IsZero() && rec.Time.After(r.to) {
				continue
			}
			return rec, nil
		}
		ok, err := r.block()
		if err != nil {
			return Record{}, err
		}
		if !ok {
			return Record{}, io.EOF
		}
	}
}

// block goes to the next block of interest; false says that there is none.
func (r *Reader) block() (bool, error) {
	for {
		if r.current == 0 {
			if ok, err := r.open(); !ok || err != nil {
				return false, err
			}
		}
		if !r.head {
			if len(r.rest) < segmentHead {
				if ok, err := r.more(); !ok || err != nil {
					return false, err
				}
				continue
			}
			if err := checkHead(r.rest); err != nil {
				return false, r.giveUp(err)
			}
			r.head = true
			r.skip(segmentHead)
		}
		h, stored, n, err := nextBlock(r.rest)
		if errors.Is(err, errTorn) {
			if ok, err := r.more(); !ok || err != nil {
				return false, err
			}
			continue
		}
		r.at, r.length = r.offset, int64(n)
		r.skip(n)
		if err != nil {
			return false, &Damage{r.path, r.at, r.length, err}
		}
		if !r.from.IsZero() && nanos(h.last).Before(r.from) || !r.to.IsZero() && nanos(h.first).After(r.to) {
			continue
		}
		raw, err := inflate(h, stored)
		if err != nil {
			return false, &Damage{r.path, r.at, r.length, err}
		}
		r.dec, r.left = newDecoder(raw), h.records
		if r.left > 0 {
			return true, nil
		}
	}
}

func (r *Reader) skip(n int) {
	r.rest = r.rest[n:]
	r.offset += int64(n)
}

// giveUp leaves the rest of the segment out.
func (r *Reader) giveUp(err error) error {
	d := &Damage{r.path, r.offset, int64(len(r.rest)), err}
	r.skip(len(r.rest))
	r.head = true
	return d
}

// more is called when the segment has no whole block any more: it reads what was written since, or goes to the next.
func (r *Reader) more() (bool, error) {
	if err := r.list(); err != nil {
		return false, fmt.Errorf("journal: %w", err)
	}
	// Whoever begins a segment has ended the one before, so look for segments first.
	before := len(r.rest)
	if err := r.read(); err != nil {
		return false, err
	}
	if len(r.rest) > before {
		return true, nil
	}
	if len(r.todo) == 0 {
		return false, nil
	}
	if before > 0 {
		return false, r.giveUp(errTorn)
	}
	return r.open()
}

// open goes to the next segment.
func (r *Reader) open() (bool, error) {
	if len(r.todo) == 0 {
		if err := r.list(); err != nil {
			return false, fmt.Errorf("journal: %w", err)
		}
		if len(r.todo) == 0 {
			return false, nil
		}
	}
	before := r.current
	r.current, r.todo = r.todo[0], r.todo[1:]
	r.path = filepath.Join(r.dir, segmentName(r.current))
	r.rest, r.offset, r.head = nil, 0, false
	if err := r.read(); err != nil {
		return false, err
	}
	if before > 0 && r.current > before+1 {
		return false, &Damage{filepath.Join(r.dir, segmentName(before+1)), 0, 0, errDeleted}
	}
	return true, nil
}

// read reads the segment from what was looked at on.
func (r *Reader) read() error {
	f, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		if len(r.rest) > 0 {
			return nil // what we have of it is ours
		}
		if r.offset > 0 {
			return nil
		}
		r.head = true
		return &Damage{r.path, 0, 0, errDeleted}
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	b := make([]byte, max(st.Size()-r.offset, 0))
	n, err := f.ReadAt(b, r.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("journal: %w", err)
	}
	if r.rest = b[:n]; n == 0 {
		r.rest = nil
	}
	return nil
}
