package sensor

import (
	"errors"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// watch has a hot target sampled as such, and the addresses on the other side of one direction sketched in the kernel,
// while a sketch is free. Without one, samples tell.
func (m *meter) watch(n uint32, h *hotTarget, d vector.Direction) error {
	if !h.watched {
		if err := m.k.SetFlag(n, bpf.Watched, true); err != nil {
			return err
		}
		h.watched = true
	}
	if h.sketch[d] != 0 {
		return nil
	}
	free := len(m.sketches)
	if free == 0 {
		m.unsketched++
		return nil
	}
	x := m.sketches[free-1]
	if err := errors.Join(m.k.ClearSketch(x), m.k.SetSketch(n, d, x)); err != nil {
		return err
	}
	m.sketches, h.sketch[d] = m.sketches[:free-1], x+1
	return nil
}

// unwatch undoes watch.
func (m *meter) unwatch(n uint32, h *hotTarget) error {
	var errs []error
	for d, x := range h.sketch {
		if x != 0 {
			errs = append(errs, m.k.SetSketch(n, vector.Direction(d), -1))
			m.sketches = append(m.sketches, x-1)
			h.sketch[d] = 0
		}
	}
	if h.watched {
		errs = append(errs, m.k.SetFlag(n, bpf.Watched, false))
		h.watched = false
	}
	return errors.Join(errs...)
}

// distinct puts what the kernel's sketches saw into the profiles of a target, and begins them anew.
func (m *meter) distinct(h *hotTarget, profiles []*pb.Profile) error {
	var seen [vector.Directions]*bpf.Sketch
	for _, p := range profiles {
		d, err := direction(p.Direction)
		if err != nil || h.sketch[d] == 0 {
			continue
		}
		if seen[d] == nil {
			x := h.sketch[d] - 1
			s, err := m.k.ReadSketch(x)
			if err != nil {
				return err
			}
			if err := m.k.ClearSketch(x); err != nil {
				return err
			}
			seen[d] = &s
		}
		p.DistinctSources, p.DistinctExact = seen[d][:], true
	}
	return nil
}

// freeSketches returns the kernel's sketches, all free.
func freeSketches() []int {
	free := make([]int, bpf.Sketches)
	for i := range free {
		free[i] = i
	}
	return free
}
