package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds on what is read at all. A real file stays far below each.
const (
	MaxSize  = 1 << 20 // octets
	MaxDepth = 16      // mappings and lists in one another
)

// parse turns text into a tree that holds one document, no aliases it could be blown up with, and no key twice. What
// is wrong goes into the report; nil means that nothing of the text can be used.
func parse(r *Report, text []byte) *yaml.Node {
	if len(text) > MaxSize {
		r.add("", r.base, "", fmt.Sprintf("is %d octets long; at most %d are read", len(text), MaxSize))
		return nil
	}
	doc, err := decode(text)
	if err != nil {
		line, what := syntax(err, text)
		r.add("", r.base+line, "", what)
		return nil
	}
	if doc == nil || len(doc.Content) == 0 || isNull(doc.Content[0]) {
		return &yaml.Node{Kind: yaml.MappingNode, Line: r.base + 1} // an empty file says nothing
	}
	root := doc.Content[0]
	shift(root, r.base, 1)
	before := len(r.problems)
	vet(r, "", root, 1)
	if len(r.problems) > before+MaxProblems {
		return nil
	}
	return root
}

// decode parses exactly one document. The parser is not ours: should it panic on a text, that is a problem of the text.
func decode(text []byte) (doc *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			doc, err = nil, fmt.Errorf("yaml: the parser cannot read this (%v)", p)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var first, second yaml.Node
	switch err := dec.Decode(&first); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, err
	}
	switch err := dec.Decode(&second); {
	case errors.Is(err, io.EOF):
		return &first, nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("yaml: line %d: a second document begins here: one file holds one document", second.Line)
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// bareAddress is an IPv6 address that YAML takes for something else: after a key, or in a list in brackets.
var bareAddress = regexp.MustCompile(`^[^#"']*(:\s+\[[0-9a-fA-F:]+\]:[0-9]|[\[,]\s*::)`)

// syntax words an error of the parser.
func syntax(err error, text []byte) (line int, what string) {
	what = strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(what); m != nil {
		line, _ = strconv.Atoi(m[1])
		what = what[len(m[0]):]
	}
	if strings.HasPrefix(what, "a second document") {
		return line, what
	}
	// The usual reasons, for which the parser's words help nobody.
	for i, l := range bytes.Split(text, []byte("\n")) {
		switch {
		case bytes.HasPrefix(bytes.TrimLeft(l, " "), []byte("\t")) && len(bytes.TrimSpace(l)) > 0:
			return i + 1, "is not YAML: a tab stands in the indentation: use spaces"
		case bareAddress.Match(l):
			return i + 1, `is not YAML: an address that begins with a bracket or a colon needs quotes, such as "[::]:7442" or "::1"`
		}
	}
	return line, "is not YAML: " + what + " (here or in the lines next to it)"
}

// shift adds the file to the lines of a tree. Aliases are followed by nobody.
func shift(n *yaml.Node, by, depth int) {
	n.Line += by
	if depth > maxParsed || by == 0 {
		return
	}
	for _, c := range n.Content {
		shift(c, by, depth+1)
	}
}

// maxParsed is how deep the parser nests at most.
const maxParsed = 20_000

// vet reports what no schema allows: anchors and aliases, tags, keys that stand twice or are not words, too deep a
// nesting.
func vet(r *Report, path string, n *yaml.Node, depth int) {
	if len(r.problems) > MaxProblems {
		return
	}
	switch {
	case n.Kind == yaml.AliasNode:
		r.add(path, n.Line, "", fmt.Sprintf("*%s is an alias, which is not read: write the value out", cut(n.Value)))
		return
	case n.Anchor != "":
		r.add(path, n.Line, "", fmt.Sprintf("&%s is an anchor, which is not read: write the value out where it is needed", cut(n.Anchor)))
	case n.Style&yaml.TaggedStyle != 0:
		r.add(path, n.Line, "", fmt.Sprintf("has the YAML tag %s: write the value without it", cut(n.Tag)))
	}
	if depth > MaxDepth {
		r.add(path, n.Line, "", fmt.Sprintf("is nested more than %d levels deep", MaxDepth))
		return
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, c := range n.Content {
			vet(r, index(path, i), c, depth+1)
		}
	case yaml.MappingNode:
		first := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			switch {
			case k.Kind != yaml.ScalarNode:
				r.add(path, k.Line, "", "a key is a list, a mapping or an alias: a key must be a word")
				continue
			case k.Tag == "!!merge":
				r.add(path, k.Line, "", "<< merges another mapping, which is not read: write its keys out")
				continue
			case isNull(k):
				r.add(path, k.Line, "", "a key is empty")
				continue
			case k.Anchor != "" || k.Style&yaml.TaggedStyle != 0:
				r.add(path, k.Line, "", "a key has an anchor or a tag: write the key alone")
			}
			at := join(path, k.Value)
			if line, ok := first[k.Value]; ok {
				r.add(at, k.Line, "", fmt.Sprintf("stands twice; the first is %s: keep one of them", r.place(line)))
			} else {
				first[k.Value] = k.Line
			}
			vet(r, at, n.Content[i+1], depth+1)
		}
	}
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

// cut shortens what is quoted back to the operator.
func cut(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
