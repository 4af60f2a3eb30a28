package scenario

import (
	"io"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/replay"
)

// merge gives the packets of all actors in order of time: a heap of actors by when their next packet is due. Actors due at
// the same time take turns by their number, so the order does not depend on how the heap came to be.
type merge struct {
	heap []entry
	end  int64
	f    frame
	// pending is set when the first of the heap has given its packet and has to move on.
	pending bool
}

type entry struct {
	at     int64
	number int
	a      *actor
}

func (e *entry) before(o *entry) bool { return e.at < o.at || e.at == o.at && e.number < o.number }

func newMerge(actors []*actor, duration time.Duration) *merge {
	m := &merge{end: int64(duration)}
	for i, a := range actors {
		a.begin()
		if a.base < float64(a.to) {
			m.heap = append(m.heap, entry{a.at, i, a})
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	return m
}

func (m *merge) down(i int) {
	h := m.heap
	x := h[i]
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1].before(&h[c]) {
			c++
		}
		if !h[c].before(&x) {
			break
		}
		h[i] = h[c]
		i = c
	}
	h[i] = x
}

// Next returns the next packet; its octets are those of the buffer.
func (m *merge) Next() (replay.Packet, error) {
	if m.pending {
		if a := m.heap[0].a; a.advance() {
			m.heap[0].at = a.at
		} else {
			last := len(m.heap) - 1
			m.heap[0] = m.heap[last]
			m.heap = m.heap[:last]
		}
		if len(m.heap) > 0 {
			m.down(0)
		}
		m.pending = false
	}
	if len(m.heap) == 0 || m.heap[0].at >= m.end {
		return replay.Packet{}, io.EOF
	}
	a := m.heap[0].a
	m.pending = true
	a.build(&a.rng, &m.f, a.n)
	return replay.Packet{
		Time: Epoch.Add(time.Duration(a.at)), Data: m.f.buf[:m.f.n], Wire: m.f.n, Label: a.label,
	}, nil
}
