package document

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

type section struct{ fields []Field }

// Section is a mapping with known keys. They are read in this order, whatever the order in the file, so that a later one
// may build on an earlier one.
func Section(fields ...Field) Value { return section{fields} }

func (s section) read(r *Report, path string, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.add(path, n.Line, "", fmt.Sprintf("%s, but it must hold keys: %s", shape(n), s.known()))
		return
	}
	if path != "" || len(n.Content) > 0 {
		defer func() { r.note(path, n.Line) }()
	}
	type entry struct{ key, value *yaml.Node }
	seen := map[string]entry{}
	var unknown []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if _, twice := seen[k.Value]; twice || k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || isNull(k) {
			continue // reported by vet
		}
		seen[k.Value] = entry{k, v}
		if _, ok := s.field(k.Value); !ok {
			unknown = append(unknown, k)
		}
	}
	for _, f := range s.fields {
		if e, ok := seen[f.Key]; ok {
			at := join(path, f.Key)
			r.lines[at] = e.key.Line
			readAt(r, f.Value, at, e.key.Line, e.value)
		}
	}
	for _, k := range unknown {
		s.unknown(r, path, join(path, k.Value), k)
	}
	for _, f := range s.fields {
		if _, ok := seen[f.Key]; f.Required && !ok {
			r.add(join(path, f.Key), max(n.Line, 1), "", "is missing: "+lower(strings.TrimSuffix(f.Help, ".")))
		}
	}
}

// readAt reads a value that stands in line, unless there is nothing to read.
func readAt(r *Report, v Value, at string, line int, n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode: // reported by vet, or when constants were put in
	case isNull(n):
		r.add(at, line, "", "has no value: write one, or remove the key for its default")
	default:
		v.read(r, at, n)
	}
}

func (s section) field(key string) (Field, bool) {
	for _, f := range s.fields {
		if f.Key == key {
			return f, true
		}
	}
	return Field{}, false
}

func (s section) keys() []string {
	keys := make([]string, len(s.fields))
	for i, f := range s.fields {
		keys[i] = f.Key
	}
	return keys
}

func (s section) known() string { return strings.Join(s.keys(), ", ") }

// unknown reports a key the section does not have, with the nearest one it has, or with the section that has it.
func (s section) unknown(r *Report, path, at string, k *yaml.Node) {
	if near := Nearest(k.Value, s.keys()); near != "" {
		r.add(at, k.Line, near, "is not a key here")
		return
	}
	if len(r.problems) > MaxProblems {
		r.add(at, k.Line, "", "is not a key here")
		return
	}
	var elsewhere []string
	for _, key := range Keys(r.root) {
		if parent, ok := strings.CutSuffix(key.Path, "."+k.Value); ok {
			elsewhere = append(elsewhere, parent)
		} else if key.Path == k.Value {
			elsewhere = append(elsewhere, "the top of the file")
		}
	}
	switch {
	case len(elsewhere) > 0 && len(elsewhere) <= 4:
		r.add(at, k.Line, "", fmt.Sprintf("is not a key here: it belongs under %s", strings.Join(elsewhere, " or ")))
	default:
		r.add(at, k.Line, "", "is not a key here; known are "+s.known())
	}
}

func (r *Report) note(path string, line int) {
	if _, ok := r.lines[path]; !ok {
		r.lines[path] = line
	}
}

func (s section) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, f := range s.fields {
		if v := f.Value.node(); v != nil {
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: f.Key}, v)
		}
	}
	return n
}

func (s section) describe(k Key, visit func(Key)) {
	if k.Group {
		visit(k)
	}
	for _, f := range s.fields {
		_, group := f.Value.(section)
		f.Value.describe(Key{
			Path: join(k.Path, f.Key), Help: f.Help, Danger: f.Danger, Required: f.Required, Group: group,
		}, visit)
	}
}

// Made binds a section that may be absent, which is nil.
func Made[T any](dst **T, schema func(*T) Value) Value { return made[T]{dst, schema} }

type made[T any] struct {
	dst    **T
	schema func(*T) Value
}

func (m made[T]) read(r *Report, path string, n *yaml.Node) {
	*m.dst = new(T)
	m.schema(*m.dst).read(r, path, n)
}

func (m made[T]) node() *yaml.Node {
	if *m.dst == nil {
		return nil
	}
	return m.schema(*m.dst).node()
}

func (m made[T]) jsonSchema() map[string]any { return m.schema(new(T)).jsonSchema() }

func (m made[T]) describe(k Key, visit func(Key)) {
	k.Group = true
	m.schema(new(T)).describe(k, visit)
}

// After is a section whose defaults hang on one of its own keys: before it is read, prepare is called with what is
// written there, or not at all where the key is missing.
func After(key string, prepare func(string), section Value) Value {
	return after{section, key, prepare}
}

type after struct {
	Value
	key     string
	prepare func(string)
}

func (a after) read(r *Report, path string, n *yaml.Node) {
	if n.Kind == yaml.MappingNode {
		if v := valueOf(n, a.key); v != nil && v.Kind == yaml.ScalarNode {
			a.prepare(v.Value)
		}
	}
	a.Value.read(r, path, n)
}

type list[T any] struct {
	dst      *[]T
	fresh    func() T
	item     func(*T) Value
	oneOrAll bool
}

// List is a list of values; fresh makes an element with its defaults, nil the zero one. Present in the file, it
// replaces the default list as a whole.
func List[T any](dst *[]T, fresh func() T, item func(*T) Value) Value {
	if fresh == nil {
		fresh = func() (zero T) { return zero }
	}
	return list[T]{dst, fresh, item, false}
}

// Scalars is a list of scalars.
func Scalars[T any](dst *[]T, c Codec[T]) Value {
	return List(dst, nil, func(t *T) Value { return Scalar(t, c) })
}

// OneOrMore is a list of scalars that may also be written as one scalar.
func OneOrMore[T any](dst *[]T, c Codec[T]) Value {
	l := Scalars(dst, c).(list[T])
	l.oneOrAll = true
	return l
}

// OmitEmpty binds a list that is left out of what is written when it is empty.
func OmitEmpty[T any](dst *[]T, v Value) Value { return omit[T]{v, dst} }

type omit[T any] struct {
	Value
	dst *[]T
}

func (o omit[T]) node() *yaml.Node {
	if len(*o.dst) == 0 {
		return nil
	}
	return o.Value.node()
}

func (l list[T]) read(r *Report, path string, n *yaml.Node) {
	items := n.Content
	switch {
	case n.Kind == yaml.SequenceNode:
	case n.Kind == yaml.ScalarNode && l.oneOrAll:
		items = []*yaml.Node{n}
	case n.Kind == yaml.ScalarNode:
		r.add(path, n.Line, "["+cut(n.Value)+"]", "is one value, but it must be a list")
		return
	default:
		r.add(path, n.Line, "", "holds keys, but it must be a list: begin each entry with a dash")
		return
	}
	out := make([]T, 0, min(len(items), 1024))
	for i, c := range items {
		at := index(path, i)
		if n.Kind == yaml.ScalarNode {
			at = path
		}
		t := l.fresh()
		r.note(at, c.Line)
		readAt(r, l.item(&t), at, c.Line, c)
		out = append(out, t)
	}
	*l.dst = out
}

func (l list[T]) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i := range *l.dst {
		c := l.item(&(*l.dst)[i]).node()
		if c == nil {
			continue
		}
		n.Content = append(n.Content, c)
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n
}

func (l list[T]) describe(k Key, visit func(Key)) {
	t := l.fresh()
	v := l.item(&t)
	k.Type = "list"
	k.Default = "[]"
	if len(*l.dst) > 0 {
		k.Default = inline(l.node())
	}
	if a, ok := v.(after); ok {
		v = a.Value
	}
	if s, ok := v.(section); ok {
		visit(k)
		s.describe(Key{Path: k.Path + "[]"}, visit)
		return
	}
	v.describe(Key{}, func(item Key) {
		k.Type = "list of " + item.Type
		if l.oneOrAll {
			k.Type = item.Type + ", or a list of them"
		}
	})
	visit(k)
}

type named[T any] struct {
	dst  *[]T
	name func(*T) *string
	item func(*T) Value
	c    Codec[string]
}

// Named is a mapping whose keys are the operator's own names, in the order of the file.
func Named[T any](dst *[]T, c Codec[string], name func(*T) *string, item func(*T) Value) Value {
	return named[T]{dst, name, item, c}
}

func (m named[T]) read(r *Report, path string, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.add(path, n.Line, "", shape(n)+", but it must hold a name and a colon for each entry")
		return
	}
	out := make([]T, 0, len(n.Content)/2)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || isNull(k) || seen[k.Value] {
			continue // reported by vet
		}
		seen[k.Value] = true
		at := join(path, k.Value)
		name, err := m.c.Parse(k.Value)
		if err != nil {
			r.wrong(at, k.Line, err)
			continue
		}
		var t T
		*m.name(&t) = name
		r.lines[at] = k.Line
		readAt(r, m.item(&t), at, k.Line, v)
		out = append(out, t)
	}
	*m.dst = out
}

func (m named[T]) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := range *m.dst {
		t := &(*m.dst)[i]
		if v := m.item(t).node(); v != nil {
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: *m.name(t)}, v)
		}
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n
}

func (m named[T]) describe(k Key, visit func(Key)) {
	var t T
	k.Type, k.Default = "mapping by name", "{}"
	visit(k)
	m.item(&t).describe(Key{Path: k.Path + ".NAME"}, visit)
}

// shape says what a node is, for a message that goes on with what it should be.
func shape(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "is a list"
	case yaml.MappingNode:
		return "holds keys"
	}
	return fmt.Sprintf("is %q", cut(n.Value))
}

func lower(s string) string {
	if len(s) > 1 && s[1] >= 'a' && s[1] <= 'z' {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

// inline writes a list of scalars in one line.
func inline(n *yaml.Node) string {
	items := make([]string, len(n.Content))
	for i, c := range n.Content {
		items[i] = c.Value
		if c.Kind != yaml.ScalarNode {
			items[i] = "…"
		}
	}
	return "[" + strings.Join(items, ", ") + "]"
}
