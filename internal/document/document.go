// Package document reads the YAML files operators write, and writes them back.
//
// A file's schema is bound to Go values: a [Section] of [Field]s, each a key, a value and what the key means. From this
// one table come the strict reading, the effective file and the reference documentation, so that they cannot differ.
// Reading refuses what it does not know, reports everything at once, and each problem has a line, a path in the
// operator's words and, where there is one, the nearest right answer.
package document

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"
)

// Value is one place of a schema, bound to the Go value that holds it.
type Value interface {
	// read stores what n says, or reports why not. The node is neither nil nor an alias.
	read(r *Report, path string, n *yaml.Node)
	// node is the value as YAML; nil leaves the key out.
	node() *yaml.Node
	// jsonSchema is the JSON Schema of the value.
	jsonSchema() map[string]any
	// describe reports the value's own type and default, and those of everything below it.
	describe(k Key, visit func(Key))
}

// Field is one key of a section.
type Field struct {
	Key   string
	Value Value
	// Help says what the key means, in a sentence for operators.
	Help string
	// Danger says what a wrong value can break; empty where nothing much can.
	Danger string
	// Required makes a missing key a problem.
	Required bool
	// Each makes the key stand in each of several files, with the same value.
	Each bool
}

// Read reads text into root. The report holds what was wrong and where each key stood, so that the caller can add what
// only he can judge; its Err is nil when the file is good. The name stands in the messages.
func Read(name string, text []byte, root Value) *Report {
	return read(newReport(name, root), []File{{name, text}}, root, "")
}

// File is one of several files that are read as one.
type File struct {
	Name string
	Text []byte
}

// ReadFiles reads several files as one, in their order: keys of sections may stand in any one of them, entries of lists
// follow one another. What stands twice is a problem that names both places. With the name of a key at the top,
// constants, the entries below it stand for values elsewhere: see [Constants].
func ReadFiles(name string, files []File, root Value, constants string) *Report {
	r := newReport(name, root)
	if len(files) > 1 {
		for _, f := range files {
			r.files = append(r.files, f.Name)
		}
	} else if len(files) == 1 {
		r.file = files[0].Name
	}
	return read(r, files, root, constants)
}

func read(r *Report, files []File, root Value, constants string) *Report {
	var all *yaml.Node
	for i, f := range files {
		r.at(i)
		n := parse(r, f.Text)
		if n == nil {
			r.unread = true
			continue
		}
		if s, ok := root.(section); ok {
			if n.Kind != yaml.MappingNode {
				s.read(r, "", n)
				r.unread = true
				continue
			}
			s.each(r, n, len(files) > 1)
		}
		if all == nil {
			all = n
			continue
		}
		merge(r, root, "", all, n)
	}
	if all == nil || r.unread && len(files) > 1 {
		return r
	}
	if constants != "" {
		substitute(r, constants, all)
	}
	root.read(r, "", all)
	return r
}

// Write writes root as YAML that Read reads back.
func Write(root Value) ([]byte, error) {
	n := root.node()
	if n == nil || len(n.Content) == 0 {
		return []byte("{}\n"), nil
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return b.Bytes(), nil
}

// Key describes one key of a schema for the reference documentation.
type Key struct {
	// Path is the key with everything above it, such as speaker.peers[].address.
	Path string
	// Type says how a value is written, such as duration.
	Type string
	// Default is the value in force when the key is absent; empty where there is none.
	Default      string
	Help, Danger string
	Required     bool
	// Group marks a key that only holds other keys.
	Group bool
}

// Keys lists every key below root in the order of the schema.
func Keys(root Value) []Key {
	var keys []Key
	root.describe(Key{Group: true}, func(k Key) {
		if k.Path != "" {
			keys = append(keys, k)
		}
	})
	return keys
}

// ReadFile reads a file for Read, and no more of it than Read would take.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}
