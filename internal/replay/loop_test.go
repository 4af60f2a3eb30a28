package replay

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

// list is a source of given packets.
type list struct{ packets []Packet }

func (l *list) Next() (Packet, error) {
	if len(l.packets) == 0 {
		return Packet{}, io.EOF
	}
	p := l.packets[0]
	l.packets = l.packets[1:]
	return p, nil
}

func opener(packets []Packet) func() (Source, error) {
	return func() (Source, error) { return &list{slices.Clone(packets)}, nil }
}

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(offsets ...time.Duration) (out []Packet) {
	for _, o := range offsets {
		out = append(out, Packet{Time: t0.Add(o)})
	}
	return out
}

func TestLoop(t *testing.T) {
	for name, tc := range map[string]struct {
		packets []Packet
		n       int
		want    []time.Duration
	}{
		"once":                        {at(0, time.Second), 1, []time.Duration{0, time.Second}},
		"the mean gap lies between":   {at(0, time.Second, 2*time.Second), 2, []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second, 5 * time.Second}},
		"a window at least":           {at(0, time.Millisecond), 3, []time.Duration{0, time.Millisecond, 32 * time.Millisecond, 33 * time.Millisecond, 64 * time.Millisecond, 65 * time.Millisecond}},
		"nothing stays nothing":       {nil, 5, nil},
		"all packets in one instant":  {at(0, 0), 2, []time.Duration{0, 0, 32 * time.Millisecond, 32 * time.Millisecond}},
		"stamps that go back, gently": {at(0, time.Second, time.Second/2), 2, []time.Duration{0, time.Second, time.Second / 2, 3 * time.Second / 2, 5 * time.Second / 2, 2 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Loop(opener(tc.packets), tc.n)()
			if err != nil {
				t.Fatal(err)
			}
			var got []time.Duration
			for {
				p, err := s.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, p.Time.Sub(t0))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}
