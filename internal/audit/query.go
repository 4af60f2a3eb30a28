package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Query selects events. Empty members select all.
type Query struct {
	Since, Until time.Time // from Since on, before Until
	// About are identifiers, of which an attribute of the event is one: an incident, a mitigation, the text of a route, a
	// router. An address or prefix selects what is about a target that overlaps it.
	About     []string
	Kinds     []Kind
	Requester string // part of the name of who asked
	Limit     int    // at most so many, the newest; at least 1
}

// Answer is what was found.
type Answer struct {
	Events []Event // newest first
	// Incomplete says why older or other events may be missing; empty when none are but for those that were never kept.
	Incomplete string
}

func (a *Answer) note(why string) {
	if a.Incomplete != "" {
		why = a.Incomplete + "; " + why
	}
	a.Incomplete = why
}

// scanBytes is how much of the file is read for one question: about two days of a controller that is never at rest.
const scanBytes = 256 << 20

// Find answers a question from the shared record, which may be nil, and from this controller's own file, which goes back
// further and has what the other leaves out.
func (l *Log) Find(ctx context.Context, q Query, s Shared) (Answer, error) {
	if q.Limit < 1 {
		return Answer{}, fmt.Errorf("find events: a limit of %d: ask for at least one", q.Limit)
	}
	m := q.matcher()
	var a Answer
	var events []Event
	if s != nil {
		n := 0
		err := s.ReadLog(ctx, q.Since, q.Until, func(line []byte) bool {
			if e, ok := m.match(line); ok {
				events, n = append(events, e), n+1
			}
			return n < q.Limit && ctx.Err() == nil
		})
		if err != nil {
			a.note(fmt.Sprintf("the record that controllers share cannot be read, so only what this controller recorded is here: %v", err))
		}
	}
	if err := l.Flush(); err != nil {
		a.note(fmt.Sprintf("this controller's audit file cannot be written, so its newest events may be missing: %v", err))
	}
	n := 0
	whole, err := readBack(l.path, scanBytes, func(line []byte) bool {
		if e, ok := m.match(line); ok {
			events, n = append(events, e), n+1
			return n < q.Limit
		}
		return ctx.Err() == nil && !m.before(line)
	})
	switch {
	case err != nil:
		return a, fmt.Errorf("read the audit file: %w", err)
	case ctx.Err() != nil:
		return a, fmt.Errorf("read the audit file: %w", context.Cause(ctx))
	case !whole:
		a.note(fmt.Sprintf("only the newest %d MiB of this controller's audit file were read: search the file for what is older", scanBytes>>20))
	}
	a.Events = newest(events, q.Limit)
	return a, nil
}

// newest sorts events, newest first, leaves out what is there twice, and cuts.
func newest(events []Event, limit int) []Event {
	compare := func(a, b Event) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.Controller, b.Controller), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Message, b.Message))
	}
	slices.SortStableFunc(events, compare)
	events = slices.CompactFunc(events, func(a, b Event) bool { return compare(a, b) == 0 })
	return events[:min(len(events), limit)]
}

// Related returns the identifiers that events name beside those that were asked for: what else belongs to the same story.
func Related(events []Event, asked []string) []string {
	var out []string
	for _, e := range events {
		for _, k := range []string{"incident", "mitigation", "route"} {
			if v := e.Attributes[k]; v != "" && !slices.Contains(asked, v) && !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	return out
}

// matcher is a query, prepared.
type matcher struct {
	Query
	ids                []string
	targets            []netip.Prefix
	idTexts, kindTexts [][]byte // as they stand in a line
}

func (q Query) matcher() *matcher {
	m := &matcher{Query: q}
	for _, about := range q.About {
		if p, ok := prefix(about); ok {
			m.targets = append(m.targets, p)
		} else {
			m.ids, m.idTexts = append(m.ids, about), append(m.idTexts, quoted(about))
		}
	}
	for _, k := range q.Kinds {
		m.kindTexts = append(m.kindTexts, append([]byte(`"kind":`), quoted(string(k))...))
	}
	return m
}

func prefix(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a.WithZone(""), a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil
}

func (m *matcher) match(line []byte) (e Event, ok bool) {
	if !m.mayMatch(line) {
		return e, false
	}
	if json.Unmarshal(line, &e) != nil {
		return e, false
	}
	return e, m.matches(e)
}

// mayMatch sorts out most lines without reading them as JSON: a question for what is rare looks at all of the file.
func (m *matcher) mayMatch(line []byte) bool {
	holds := func(text []byte) bool { return bytes.Contains(line, text) }
	if len(m.kindTexts) > 0 && !slices.ContainsFunc(m.kindTexts, holds) {
		return false
	}
	return len(m.About) == 0 || slices.ContainsFunc(m.idTexts, holds) || len(m.targets) > 0 && holds(targetText)
}

var targetText = []byte(`"target":`)

// quoted is how a text stands in JSON.
func quoted(s string) []byte {
	b, _ := json.Marshal(s) // a string can always be written
	return b
}

func (m *matcher) matches(e Event) bool {
	switch {
	case !m.Since.IsZero() && e.Time.Before(m.Since), !m.Until.IsZero() && !e.Time.Before(m.Until):
		return false
	case len(m.Kinds) > 0 && !slices.Contains(m.Kinds, e.Kind):
		return false
	case !strings.Contains(e.Attributes["requester"], m.Requester):
		return false
	case len(m.About) == 0:
		return true
	}
	for _, v := range e.Attributes {
		if slices.Contains(m.ids, v) {
			return true
		}
	}
	target, ok := prefix(e.Attributes["target"])
	return ok && slices.ContainsFunc(m.targets, target.Overlaps)
}

// before reports whether a line of the file, and so all above it but for a few that came late, is older than what is asked for.
func (m *matcher) before(line []byte) bool {
	const late = time.Minute
	if m.Since.IsZero() {
		return false
	}
	text, ok := bytes.CutPrefix(line, []byte(`{"time":"`)) // each line is asked, so it is not read as JSON
	text, _, found := bytes.Cut(text, []byte{'"'})
	at, err := time.Parse(time.RFC3339Nano, string(text))
	return ok && found && err == nil && at.Before(m.Since.Add(-late))
}

// readBack calls each with the lines of the file and of those that were full before it, the newest first, until it returns false or
// limit octets were read, which whole tells.
func readBack(path string, limit int64, each func(line []byte) bool) (whole bool, err error) {
	for i := 0; ; i++ {
		name := path
		if i > 0 {
			name = fmt.Sprintf("%s.%d", path, i)
		}
		f, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		on, err := readFileBack(f, &limit, each)
		if err := errors.Join(err, f.Close()); err != nil || !on {
			return err == nil && limit > 0, err
		}
	}
}

// readChunk is how much of a file is read at once.
const readChunk = 1 << 20

func readFileBack(f *os.File, limit *int64, each func(line []byte) bool) (on bool, err error) {
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	var rest []byte // the beginning of a line whose end was read
	for end := st.Size(); end > 0; {
		if *limit <= 0 {
			return false, nil
		}
		from := max(end-readChunk, 0)
		b := make([]byte, end-from, int(end-from)+len(rest))
		if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		*limit -= end - from
		b = append(b, rest...)
		for end = from; ; {
			i := bytes.LastIndexByte(b, '\n')
			if i < 0 {
				break
			}
			if line := b[i+1:]; len(line) > 0 && !each(line) {
				return false, nil
			}
			b = b[:i]
		}
		rest = b
	}
	return len(rest) == 0 || each(rest), nil
}
