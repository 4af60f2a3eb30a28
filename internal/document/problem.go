package document

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// MaxProblems is how many problems of one file are told; a file with more is something else than what was meant.
const MaxProblems = 40

// Problem is one thing wrong with a file.
type Problem struct {
	File string
	Line int // 0 where the problem has no line
	// Path names the key in the operator's words, such as peers[0].address; empty for the file as a whole.
	Path string
	// What is wrong, and what to do about it.
	What string
	// Suggestion is what was probably meant; empty where nothing is near.
	Suggestion string
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	if p.Suggestion != "" {
		fmt.Fprintf(&b, "; did you mean %q?", p.Suggestion)
	}
	return b.String()
}

// Problems is all that is wrong with a file, in order of lines. It is the error of everything that reads one.
type Problems []Problem

// Error writes one problem per line.
func (ps Problems) Error() string {
	var lines []string
	for i, p := range ps {
		if i == MaxProblems {
			more := fmt.Sprint(len(ps) - i)
			if len(ps) == maxKept {
				more = "very many"
			}
			lines = append(lines, fmt.Sprintf("%s: and %s more problems", p.File, more))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// Report gathers the problems of one file and knows at which line each key stood.
type Report struct {
	file     string
	root     Value
	problems Problems
	lines    map[string]int // by path
	unread   bool           // nothing of the file could be used, so nothing more can be said about it
}

// maxKept bounds the problems kept at all, so that a file of nothing else costs little.
const maxKept = 1000

func newReport(file string, root Value) *Report {
	return &Report{file: file, root: root, lines: map[string]int{}}
}

// Add reports a problem with the key at path. A path that has a problem already gets no second one: what was not
// read cannot be judged. A key that is not in the file is reported at the line of the section it belongs to.
func (r *Report) Add(path, format string, args ...any) {
	r.Suggest(path, "", format, args...)
}

// Suggest is Add with what was probably meant.
func (r *Report) Suggest(path, suggestion, format string, args ...any) {
	if r.Bad(path) {
		return
	}
	r.add(path, r.line(path), suggestion, fmt.Sprintf(format, args...))
}

// Wrong is Add with an error; joined errors are one problem each, with what Wrong says was probably meant.
func (r *Report) Wrong(path string, err error) {
	if r.Bad(path) {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			r.wrong(path, r.line(path), e)
		}
		return
	}
	r.wrong(path, r.line(path), err)
}

// Bad reports whether the key at path, or one below or above it, has a problem already.
func (r *Report) Bad(path string) bool {
	return r.unread || slices.ContainsFunc(r.problems, func(p Problem) bool {
		return p.Path == path || below(p.Path, path) || p.Path != "" && below(path, p.Path)
	})
}

// Has reports whether the key at path stood in the file.
func (r *Report) Has(path string) bool {
	_, ok := r.lines[path]
	return ok
}

// Err returns the problems as an error in order of lines, or nil.
func (r *Report) Err() error {
	if len(r.problems) == 0 {
		return nil
	}
	ps := slices.Clone(r.problems)
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return ps
}

func (r *Report) add(path string, line int, suggestion, what string) {
	if len(r.problems) == maxKept {
		return
	}
	r.problems = append(r.problems, Problem{File: r.file, Line: line, Path: path, What: what, Suggestion: suggestion})
}

// line finds the line of the key at path, or of the nearest key above it.
func (r *Report) line(path string) int {
	for {
		if line, ok := r.lines[path]; ok {
			return line
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return 0
		}
		path = path[:i]
	}
}

// below reports whether the path a lies under the path b.
func below(a, b string) bool {
	rest, ok := strings.CutPrefix(a, b)
	return ok && b != "" && rest != "" && (rest[0] == '.' || rest[0] == '[')
}

// join adds a key to a path. A key that would be misread in a path is quoted.
func join(path, key string) string {
	if key == "" || len(key) > 64 || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`.[]"`, c) }) {
		if len(key) > 64 {
			key = key[:64] + "…"
		}
		key = fmt.Sprintf("%q", key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// NewReport returns a report for values that stand in no file; name stands in its place.
func NewReport(name string) *Report { return newReport(name, Section()) }
