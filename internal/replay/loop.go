package replay

import (
	"errors"
	"io"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
)

// Loop gives the packets that open yields n times over, each time with stamps that go on where the ones before ended:
// for captures too short to show how an attack goes on. A round takes as long as the capture and one mean gap between
// packets, and at least one window, so that a handful of packets in a millisecond makes no flood.
func Loop(open func() (Source, error), n int) func() (Source, error) {
	if n <= 1 {
		return open
	}
	return func() (Source, error) {
		s, err := open()
		if err != nil {
			return nil, err
		}
		return &loop{open: open, now: s, left: n - 1}, nil
	}
}

type loop struct {
	open        func() (Source, error)
	now         Source
	left        int
	packets     int
	first, last time.Time // as captured
	shift       time.Duration
}

func (l *loop) Next() (Packet, error) {
	p, err := l.now.Next()
	if errors.Is(err, io.EOF) && l.left > 0 && l.packets > 0 {
		if err := Close(l.now); err != nil {
			return Packet{}, err
		}
		if l.now, err = l.open(); err != nil {
			return Packet{}, err
		}
		span := l.last.Sub(l.first)
		l.shift += max(span+span/time.Duration(max(l.packets-1, 1)), detect.Window)
		l.left, l.packets = l.left-1, 0
		p, err = l.now.Next()
	}
	if err != nil {
		return Packet{}, err
	}
	if l.first.IsZero() {
		l.first, l.last = p.Time, p.Time
	}
	if l.shift == 0 && p.Time.After(l.last) {
		l.last = p.Time
	}
	l.packets++
	p.Time = p.Time.Add(l.shift)
	return p, nil
}

func (l *loop) Close() error { return Close(l.now) }

// Close closes a source that can be closed.
func Close(s Source) error {
	if c, ok := s.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
