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
}

// Read reads text into root. The report holds what was wrong and where each key stood, so that the caller can add what
// only he can judge; its Err is nil when the file is good. The name stands in the messages.
func Read(name string, text []byte, root Value) *Report {
	r := newReport(name, root)
	n := parse(r, text)
	if n == nil {
		r.unread = true
		return r
	}
	if _, ok := root.(section); ok && n.Kind != yaml.MappingNode {
		defer func() { r.unread = true }()
	}
	root.read(r, "", n)
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
