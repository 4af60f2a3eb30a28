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

	order int // of files, then of lines
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

	files []string          // where there are several; then a line holds its file in its upper bits
	base  int               // of the file that is being parsed
	via   map[string]string // the constant that stands at a path
}

// fileBits are the bits of a line below those of its file: no file has as many lines as octets.
const fileBits = 20

// at says which file is parsed now.
func (r *Report) at(i int) {
	if len(r.files) > 0 {
		r.base = (i + 1) << fileBits
	}
}

// where splits a line into the file and the line in it.
func (r *Report) where(line int) (file string, n int) {
	if i := line>>fileBits - 1; i >= 0 && i < len(r.files) {
		return r.files[i], line & (1<<fileBits - 1)
	}
	return r.file, line
}

// place says where a line is, seen from another one.
func (r *Report) place(line int) string {
	file, n := r.where(line)
	if len(r.files) == 0 {
		return fmt.Sprintf("in line %d", n)
	}
	return fmt.Sprintf("in %s:%d", file, n)
}

// Place says where the key at path stands, as file:line; only the file where it does not.
func (r *Report) Place(path string) string {
	file, line := r.where(r.line(path))
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// Name is a path to tell of in a problem with another one: with its place, if that may be in another file.
func (r *Report) Name(path string) string {
	if len(r.files) == 0 {
		return path
	}
	return fmt.Sprintf("%s (%s)", path, r.Place(path))
}

// maxKept bounds the problems kept at all, so that a file of nothing else costs little.
const maxKept = 1000

func newReport(file string, root Value) *Report {
	return &Report{file: file, root: root, lines: map[string]int{}, via: map[string]string{}}
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
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Compare(a.order, b.order) })
	return ps
}

func (r *Report) add(path string, line int, suggestion, what string) {
	if len(r.problems) == maxKept {
		return
	}
	for p := path; p != ""; p = p[:max(strings.LastIndexAny(p, ".["), 0)] {
		if name, ok := r.via[p]; ok {
			what += " (from " + name + ")"
			break
		}
	}
	file, n := r.where(line)
	r.problems = append(r.problems, Problem{File: file, Line: n, Path: path, What: what, Suggestion: suggestion, order: line})
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
