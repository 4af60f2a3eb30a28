package document

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Codec reads and writes scalars of one type.
type Codec[T any] struct {
	// Type says how a value is written, for the reference documentation.
	Type string
	// Parse reads a value. Its error is shown after the key, so it begins with the value or with a verb, and may
	// carry a suggestion made by Wrong.
	Parse func(string) (T, error)
	// Format writes a value so that Parse reads it back.
	Format func(T) string
	// Plain values are numbers and booleans of YAML, written without quotes.
	Plain bool
	// JSON is the JSON Schema of a value, where more can be said than that it is a text.
	JSON map[string]any
}

type wrong struct{ what, suggestion string }

func (w *wrong) Error() string {
	if w.suggestion == "" {
		return w.what
	}
	return fmt.Sprintf("%s; did you mean %q?", w.what, w.suggestion)
}

// Wrong makes an error that carries what was probably meant.
func Wrong(suggestion, format string, args ...any) error {
	return &wrong{fmt.Sprintf(format, args...), suggestion}
}

func (r *Report) wrong(path string, line int, err error) {
	var w *wrong
	if errors.As(err, &w) {
		r.add(path, line, w.suggestion, w.what)
		return
	}
	r.add(path, line, "", err.Error())
}

type scalar[T any] struct {
	dst *T
	c   Codec[T]
}

// Scalar binds one value.
func Scalar[T any](dst *T, c Codec[T]) Value { return scalar[T]{dst, c} }

func (s scalar[T]) read(r *Report, path string, n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		r.add(path, n.Line, "", shape(n)+", but it must be one value: "+s.c.Type)
		return
	}
	v, err := s.c.Parse(n.Value)
	if err != nil {
		r.wrong(path, n.Line, err)
		return
	}
	*s.dst = v
}

func (s scalar[T]) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s.c.Format(*s.dst)}
	if s.c.Plain {
		n.Tag = ""
	}
	return n
}

func (s scalar[T]) jsonSchema() map[string]any { return s.c.jsonSchema() }

func (o optional[T]) jsonSchema() map[string]any { return o.c.jsonSchema() }

func (c Codec[T]) jsonSchema() map[string]any {
	if c.JSON != nil {
		return maps.Clone(c.JSON)
	}
	return map[string]any{"type": "string"}
}

func (s scalar[T]) describe(k Key, visit func(Key)) {
	k.Type, k.Default = s.c.Type, s.c.Format(*s.dst)
	visit(k)
}

type optional[T any] struct {
	dst **T
	c   Codec[T]
}

// Optional binds a value that may be absent, which is nil and not a default.
func Optional[T any](dst **T, c Codec[T]) Value { return optional[T]{dst, c} }

func (o optional[T]) read(r *Report, path string, n *yaml.Node) {
	before := len(r.problems)
	var v T
	scalar[T]{&v, o.c}.read(r, path, n)
	if len(r.problems) == before {
		*o.dst = &v
	}
}

func (o optional[T]) node() *yaml.Node {
	if *o.dst == nil {
		return nil
	}
	return scalar[T]{*o.dst, o.c}.node()
}

func (o optional[T]) describe(k Key, visit func(Key)) {
	k.Type = o.c.Type
	visit(k)
}

// Text is any text of one line, min to max characters.
func Text(minimum, maximum int) Codec[string] {
	return Codec[string]{
		Type: "text",
		Parse: func(s string) (string, error) {
			switch n := len([]rune(s)); {
			case strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }):
				return "", fmt.Errorf("%q holds a line break or a character that cannot be printed", cut(s))
			case n == 0 && minimum > 0:
				return "", errors.New("is empty")
			case n < minimum || n > maximum:
				return "", fmt.Errorf("%q is %d characters long; %d to %d are allowed", cut(s), n, minimum, maximum)
			}
			return s, nil
		},
		Format: func(s string) string { return s },
	}
}

// Word is a name of the operator's: letters, digits, dot, dash and underscore.
func Word() Codec[string] {
	c := Text(1, 128)
	c.Type = "name"
	text := c.Parse
	c.Parse = func(s string) (string, error) {
		if _, err := text(s); err != nil {
			return "", err
		}
		fix := strings.Map(func(r rune) rune {
			if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-", r)) {
				return r
			}
			return '-'
		}, s)
		if fix != s {
			return "", Wrong(fix, "%q is not a name: letters, digits, dot, dash and underscore make one", cut(s))
		}
		return s, nil
	}
	return c
}

// Bool is true or false.
func Bool() Codec[bool] {
	return Codec[bool]{
		Type: "true or false",
		Parse: func(s string) (bool, error) {
			switch strings.ToLower(s) {
			case "true":
				if s == "true" {
					return true, nil
				}
				fallthrough
			case "yes", "on", "y", "1":
				return false, Wrong("true", "%q is neither true nor false", s)
			case "false":
				if s == "false" {
					return false, nil
				}
				fallthrough
			case "no", "off", "n", "0":
				return false, Wrong("false", "%q is neither true nor false", s)
			}
			return false, fmt.Errorf("%q is neither true nor false", cut(s))
		},
		Format: strconv.FormatBool,
		Plain:  true,
		JSON:   map[string]any{"type": "boolean"},
	}
}

// Number is a whole number in a range.
func Number[T ~int | ~int64 | ~uint16 | ~uint32](minimum, maximum T) Codec[T] {
	return Codec[T]{
		Type: fmt.Sprintf("number, %d to %d", minimum, maximum),
		Parse: func(s string) (T, error) {
			v, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				bare := strings.NewReplacer("_", "", ",", "", " ", "").Replace(s)
				if _, err := strconv.ParseInt(bare, 10, 64); err == nil {
					return 0, Wrong(bare, "%q is not a whole number", cut(s))
				}
				return 0, fmt.Errorf("%q is not a whole number from %d to %d", cut(s), minimum, maximum)
			}
			if v < int64(minimum) || v > int64(maximum) {
				return 0, fmt.Errorf("%d is not from %d to %d", v, minimum, maximum)
			}
			return T(v), nil
		},
		Format: func(v T) string { return strconv.FormatInt(int64(v), 10) },
		Plain:  true,
		JSON:   map[string]any{"type": "integer", "minimum": int64(minimum), "maximum": int64(maximum)},
	}
}

// OneOf is one of a few words.
func OneOf[T ~string](words ...T) Codec[T] {
	known := make([]string, len(words))
	for i, w := range words {
		known[i] = string(w)
	}
	return Codec[T]{
		Type: strings.Join(known, " or "),
		Parse: func(s string) (T, error) {
			if slices.Contains(known, s) {
				return T(s), nil
			}
			if near := Nearest(s, known); near != "" {
				return "", Wrong(near, "%q is not known here", cut(s))
			}
			return "", fmt.Errorf("%q is not known here; known are %s", cut(s), strings.Join(known, ", "))
		},
		Format: func(v T) string { return string(v) },
		JSON:   map[string]any{"enum": known},
	}
}

// Prefix is an address prefix; a host may be written without its length.
func Prefix() Codec[netip.Prefix] {
	return Codec[netip.Prefix]{
		Type: "prefix",
		Parse: func(s string) (netip.Prefix, error) {
			p, err := route.ParsePrefix(s)
			if err != nil {
				if q, perr := netip.ParsePrefix(s); perr == nil && !q.Addr().Is4In6() {
					return p, Wrong(q.Masked().String(), "%q has bits set beyond its length", s)
				}
				if a, aerr := netip.ParseAddr(s); aerr == nil && a.Is4In6() {
					return p, Wrong(a.Unmap().String(), "%q is an IPv4-mapped address: write it as IPv4", s)
				}
				return p, fmt.Errorf("%q is not a prefix such as 192.0.2.0/24 or 2001:db8::/32", cut(s))
			}
			return p, nil
		},
		Format: netip.Prefix.String,
	}
}

// Addr is an address without a zone.
func Addr() Codec[netip.Addr] {
	return Codec[netip.Addr]{
		Type: "address",
		Parse: func(s string) (netip.Addr, error) {
			a, err := netip.ParseAddr(s)
			switch {
			case err != nil:
				if p, perr := netip.ParsePrefix(s); perr == nil {
					return a, Wrong(p.Addr().String(), "%q is a prefix, but it must be an address", s)
				}
				if ap, aerr := netip.ParseAddrPort(s); aerr == nil {
					return a, Wrong(ap.Addr().String(), "%q is an address with a port, but it must be an address alone", s)
				}
				return a, fmt.Errorf("%q is not an address such as 192.0.2.1 or 2001:db8::1", cut(s))
			case a.Is4In6():
				return a, Wrong(a.Unmap().String(), "%q is an IPv4-mapped address: write it as IPv4", s)
			case a.Zone() != "":
				return a, Wrong(a.WithZone("").String(), "%q has a zone, which is not allowed here", s)
			}
			return a, nil
		},
		Format: netip.Addr.String,
	}
}

// OrEmpty allows the empty text, which stands for the zero value.
func OrEmpty[T comparable](c Codec[T]) Codec[T] {
	parse, format := c.Parse, c.Format
	var zero T
	c.Parse = func(s string) (T, error) {
		if s == "" {
			return zero, nil
		}
		return parse(s)
	}
	c.Format = func(v T) string {
		if v == zero {
			return ""
		}
		return format(v)
	}
	return c
}
