package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// Colours of a terminal.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "36"
	bold   = "1"
	dim    = "2"
)

// timeline prints what happened, in the order in which it happened: what is learnt late is put where it belongs, so an
// entry waits a moment before it is printed.
type timeline struct {
	w      io.Writer
	colour bool

	mu      sync.Mutex
	zero    time.Time // guarded by mu: the attack's first packet
	entries []entry   // guarded by mu: not printed yet
}

type entry struct {
	at    time.Time
	where string
	what  string
	style string
}

// settle is how long an entry waits for earlier ones.
const settle = 400 * time.Millisecond

func newTimeline(w io.Writer, colour bool) *timeline { return &timeline{w: w, colour: colour} }

func (t *timeline) paint(style, text string) string {
	if !t.colour || style == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// line prints a line now.
func (t *timeline) line(text string) { fmt.Fprintln(t.w, text) }

// head prints a heading.
func (t *timeline) head(title, text string) {
	t.line("\n" + t.paint(bold, title) + "  " + t.paint(dim, text))
}

// begin sets the moment that times are told from. Before it, entries are held back.
func (t *timeline) begin(zero time.Time) {
	t.mu.Lock()
	t.zero = zero
	t.mu.Unlock()
}

// add takes an entry.
func (t *timeline) add(at time.Time, style, where, format string, args ...any) {
	t.mu.Lock()
	t.entries = append(t.entries, entry{at, where, fmt.Sprintf(format, args...), style})
	t.mu.Unlock()
	t.flush(time.Now().Add(-settle))
}

// flush prints what happened until then; the zero Time prints all there is.
func (t *timeline) flush(until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.zero.IsZero() {
		return
	}
	slices.SortStableFunc(t.entries, func(a, b entry) int { return a.at.Compare(b.at) })
	n := 0
	for ; n < len(t.entries) && (until.IsZero() || !t.entries[n].at.After(until)); n++ {
		e := t.entries[n]
		lines := strings.Split(e.what, "\n")
		fmt.Fprintf(t.w, "  %s  %s %s\n", t.paint(dim, fmt.Sprintf("%12s", stamp(e.at.Sub(t.zero)))),
			t.paint(blue, fmt.Sprintf("%-10s", e.where)), t.paint(e.style, lines[0]))
		for _, l := range lines[1:] {
			fmt.Fprintf(t.w, "  %12s  %10s %s\n", "", "", t.paint(dim, l))
		}
	}
	t.entries = slices.Delete(t.entries, 0, n)
}

// stamp writes a moment relative to the attack's first packet.
func stamp(d time.Duration) string {
	sign := "+"
	if d < 0 {
		sign, d = "−", -d
	}
	if d < time.Second {
		return fmt.Sprintf("%s%.1f ms", sign, float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%s%.2f s ", sign, d.Seconds())
}

// bar draws share (0 to 1) of a full bar.
func bar(share float64) string {
	const width = 20
	n := int(min(max(share, 0), 1)*width*8 + 0.5)
	full, part := n/8, n%8
	s := strings.Repeat("█", full)
	if part > 0 {
		s += string([]rune(" ▏▎▍▌▋▊▉")[part])
		full++
	}
	return s + strings.Repeat("·", width-full)
}
