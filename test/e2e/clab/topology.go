package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// topology is what we need to know of a containerlab topology.
type topology struct {
	Name     string
	Topology struct {
		Kinds  map[string]node
		Groups map[string]node
		Nodes  map[string]node
		Links  []link
	}
}

type node struct {
	Kind, Group string
	Binds       []string
}

type link struct {
	Endpoints []string
	MTU       int
}

// variable is ${NAME:=default}, as containerlab reads it.
var variable = regexp.MustCompile(`\$\{(\w+)(?::=([^}]*))?\}`)

// readTopology reads a topology with the variables' defaults in place.
func readTopology(path string) (topology, error) {
	var t topology
	text, err := os.ReadFile(path)
	if err != nil {
		return t, err
	}
	if err := yaml.Unmarshal(variable.ReplaceAll(text, []byte("$2")), &t); err != nil {
		return t, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// nodes are the names of the nodes, sorted.
func (t topology) nodes() []string { return slices.Sorted(maps.Keys(t.Topology.Nodes)) }

// bird reports whether a node is a BIRD.
func (t topology) bird(name string) bool { return t.Topology.Nodes[name].Group == "bird" }

// files are the files of this folder that a node mounts, those of its group and kind included.
func (t topology) files(name string) []string {
	n := t.Topology.Nodes[name]
	g := t.Topology.Groups[n.Group]
	var out []string
	for _, b := range slices.Concat(t.Topology.Kinds[g.Kind].Binds, g.Binds, n.Binds) {
		file, _, _ := strings.Cut(b, ":")
		out = append(out, file)
	}
	return out
}
