package document

import (
	"fmt"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// merger is a value of which each of several files may hold a part.
type merger interface {
	merge(r *Report, path string, all, more *yaml.Node)
}

// merge puts what a further file says into the tree of those before it.
func merge(r *Report, v Value, path string, all, more *yaml.Node) {
	if m, ok := v.(merger); ok {
		m.merge(r, path, all, more)
		return
	}
	r.add(path, more.Line, "", fmt.Sprintf("stands twice; the first is %s: keep one of them", r.place(all.Line)))
}

func (s section) merge(r *Report, path string, all, more *yaml.Node) {
	if all.Kind != yaml.MappingNode || more.Kind != yaml.MappingNode {
		s.read(r, path, more) // says what it must be, or else the other will
		return
	}
	for i := 0; i+1 < len(more.Content); i += 2 {
		k, v := more.Content[i], more.Content[i+1]
		first := valueOf(all, k.Value)
		f, known := s.field(k.Value)
		switch {
		case first == nil:
			all.Content = append(all.Content, k, v)
		case f.Each && first.Value == v.Value && first.Kind == v.Kind:
		case f.Each:
			r.add(join(path, k.Value), k.Line, "", fmt.Sprintf("is %q, but %q %s", cut(v.Value), cut(first.Value), r.place(first.Line)))
		case known:
			merge(r, f.Value, join(path, k.Value), first, v)
		default:
			s.unknown(r, path, join(path, k.Value), k)
		}
	}
}

// each reports keys that must stand in each file and do not.
func (s section) each(r *Report, n *yaml.Node, several bool) {
	for _, f := range s.fields {
		if several && f.Each && valueOf(n, f.Key) == nil {
			r.add(f.Key, max(n.Line, 1), "", "is missing: it must stand in each file")
		}
	}
}

func (l list[T]) merge(r *Report, path string, all, more *yaml.Node) {
	for _, n := range []*yaml.Node{all, more} {
		if n.Kind != yaml.SequenceNode {
			r.add(path, n.Line, "", shape(n)+", but it must be a list: it stands in several files")
			return
		}
	}
	all.Content = append(all.Content, more.Content...)
}

func (o omit[T]) merge(r *Report, path string, all, more *yaml.Node) {
	merge(r, o.Value, path, all, more)
}

func (m named[T]) merge(r *Report, path string, all, more *yaml.Node) { mergeNames(r, path, all, more) }

// mergeNames joins mappings whose keys are names.
func mergeNames(r *Report, path string, all, more *yaml.Node) {
	for _, n := range []*yaml.Node{all, more} {
		if n.Kind != yaml.MappingNode {
			r.add(path, n.Line, "", shape(n)+", but it must hold a name and a colon for each entry")
			return
		}
	}
	for i := 0; i+1 < len(more.Content); i += 2 {
		k := more.Content[i]
		if j := slices.IndexFunc(all.Content, func(n *yaml.Node) bool { return n.Value == k.Value }); j >= 0 && j%2 == 0 {
			r.add(join(path, k.Value), k.Line, "", fmt.Sprintf("stands twice; the first is %s: keep one of them", r.place(all.Content[j].Line)))
			continue
		}
		all.Content = append(all.Content, k, more.Content[i+1])
	}
}

func valueOf(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// Constant is a value with a name: a scalar, or a list of scalars.
type Constant struct {
	Name string
	// Values has one entry for a scalar.
	Values []string
	List   bool
}

var constantName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

type constants struct{ dst *[]Constant }

// Constants is a mapping of names to scalars, or to lists of scalars. $NAME stands for it wherever a value does, and a
// list in a list for its entries.
func Constants(dst *[]Constant) Value { return constants{dst} }

func (c constants) read(r *Report, path string, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.add(path, n.Line, "", shape(n)+", but it must hold a name and a colon for each entry")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		at := join(path, k.Value)
		one := Constant{Name: k.Value, List: v.Kind == yaml.SequenceNode}
		items := []*yaml.Node{v}
		if one.List {
			items = v.Content
		}
		switch {
		case !constantName.MatchString(k.Value):
			r.add(at, k.Line, "", "is not the name of a constant: small letters, digits and underscore make one, a letter first")
			continue
		case v.Kind == yaml.MappingNode:
			r.add(at, v.Line, "", "holds keys, but a constant is a value or a list of them")
			continue
		case slices.ContainsFunc(items, func(n *yaml.Node) bool { return n.Kind != yaml.ScalarNode || isNull(n) }):
			r.add(at, v.Line, "", "has no value, or a list in a list: a constant is a value or a list of them")
			continue
		}
		for _, item := range items {
			one.Values = append(one.Values, item.Value)
			if reference.MatchString(item.Value) {
				r.add(at, item.Line, "", fmt.Sprintf("%s: a constant is no other constant", item.Value))
			}
		}
		r.note(at, k.Line)
		*c.dst = append(*c.dst, one)
	}
}

func (c constants) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, one := range *c.dst {
		v := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, text := range one.Values {
			v.Content = append(v.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text})
		}
		if !one.List {
			v = v.Content[0]
		}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: one.Name}, v)
	}
	if len(n.Content) == 0 {
		return nil
	}
	return n
}

func (c constants) describe(k Key, visit func(Key)) {
	k.Type, k.Default = "mapping of names to values or lists of them", "{}"
	visit(k)
}

func (c constants) merge(r *Report, path string, all, more *yaml.Node) {
	mergeNames(r, path, all, more)
}

var reference = regexp.MustCompile(`^\$[A-Za-z0-9_.-]+$`)

// maxSubstituted is how many values constants may become: a list in a list multiplies.
const maxSubstituted = 100_000

// substitution puts constants where their names stand.
type substitution struct {
	r      *Report
	values map[string]*yaml.Node // by $NAME
	known  []string
	left   int
}

// substitute puts the constants below a key at the top where their names stand.
func substitute(r *Report, key string, root *yaml.Node) {
	s := substitution{r, map[string]*yaml.Node{}, nil, maxSubstituted}
	if defined := valueOf(root, key); defined != nil && defined.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(defined.Content); i += 2 {
			name := "$" + defined.Content[i].Value
			s.values[name], s.known = defined.Content[i+1], append(s.known, name)
		}
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if k := root.Content[i]; k.Value != key {
			s.put(join("", k.Value), root.Content[i+1])
		}
	}
}

// put replaces names of constants in n by their values.
func (s *substitution) put(path string, n *yaml.Node) {
	switch n.Kind {
	case yaml.ScalarNode:
		if v, ok := s.constant(path, n); ok {
			s.r.via[path] = n.Value
			n.Kind, n.Tag, n.Style, n.Value = v.Kind, v.Tag, v.Style, v.Value
			n.Content = s.items(v, n.Line)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			s.put(join(path, n.Content[i].Value), n.Content[i+1])
		}
	case yaml.SequenceNode:
		var out []*yaml.Node
		for _, c := range n.Content {
			at := index(path, len(out))
			if v, ok := s.values[c.Value]; ok && c.Kind == yaml.ScalarNode && v.Kind == yaml.SequenceNode {
				for _, item := range s.items(v, c.Line) {
					s.r.via[index(path, len(out))] = c.Value
					out = append(out, item)
				}
				continue
			}
			s.put(at, c)
			out = append(out, c)
		}
		n.Content = out
	}
}

// items are the entries of a list constant, at the line where it is used.
func (s *substitution) items(v *yaml.Node, line int) (out []*yaml.Node) {
	if s.left -= len(v.Content); s.left < 0 {
		if s.left+len(v.Content) >= 0 {
			s.r.add("", line, "", fmt.Sprintf("constants stand for more than %d values", maxSubstituted))
		}
		return nil
	}
	for _, c := range v.Content {
		own := *c
		own.Line = line
		out = append(out, &own)
	}
	return out
}

func (s *substitution) constant(path string, n *yaml.Node) (*yaml.Node, bool) {
	if !reference.MatchString(n.Value) {
		return nil, false
	}
	v, ok := s.values[n.Value]
	switch {
	case !ok:
		s.r.add(path, n.Line, Nearest(n.Value, s.known), n.Value+" is not a constant")
		n.Kind = yaml.AliasNode // not to be read
	case v.Kind != yaml.ScalarNode && v.Kind != yaml.SequenceNode: // reported where it stands
		n.Kind = yaml.AliasNode
		ok = false
	}
	return v, ok
}
