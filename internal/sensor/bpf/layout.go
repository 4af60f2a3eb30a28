//go:build linux

package bpf

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// layoutRevision is raised when the meaning of what maps hold changes though no type, size or name does: maps pinned by an
// earlier version are then replaced instead of reused.
const layoutRevision = 1

// looseConstants may differ from one process to the next on the same maps: nothing in the maps depends on them.
var looseConstants = []string{"truncated_mirror", "decapsulate", "service_vectors", "icmp_vectors"}

// layoutOf is a fingerprint of all that the contents of the maps depend on: their sizes, the types in them, where
// variables lie, and constants.
func layoutOf(spec *ebpf.CollectionSpec) [32]byte {
	h := sha256.New()
	writeLayout(h, spec)
	return [32]byte(h.Sum(nil))
}

func writeLayout(w io.Writer, spec *ebpf.CollectionSpec) {
	fmt.Fprintln(w, "revision", layoutRevision)
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		m := spec.Maps[name]
		if !outlives(name) {
			continue
		}
		fmt.Fprintf(w, "map %s %v %d %d %d %#x", name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
		for _, t := range []btf.Type{m.Key, m.Value} {
			if _, data := t.(*btf.Datasec); t != nil && !data {
				fmt.Fprint(w, " ")
				writeType(w, t, nil)
			}
		}
		fmt.Fprintln(w)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Variables)) {
		v := spec.Variables[name]
		if outlives(v.SectionName) {
			fmt.Fprintf(w, "variable %s %s %d %d ", name, v.SectionName, v.Offset, v.Size())
			if v.Type != nil {
				writeType(w, v.Type.Type, nil)
			}
			fmt.Fprintln(w)
		} else if !slices.Contains(looseConstants, name) {
			fmt.Fprintf(w, "constant %s %x\n", name, v.Value)
		}
	}
}

// writeType writes what a type looks like, members by name; typedefs and qualifiers change nothing.
func writeType(w io.Writer, t btf.Type, above []btf.Type) {
	t = btf.UnderlyingType(t)
	if slices.Contains(above, t) {
		fmt.Fprint(w, "again")
		return
	}
	above = append(above, t)
	members := func(list []btf.Member) {
		for _, m := range list {
			fmt.Fprintf(w, "%d:%d %s ", m.Offset, m.BitfieldSize, m.Name)
			writeType(w, m.Type, above)
			fmt.Fprint(w, "; ")
		}
		fmt.Fprint(w, "}")
	}
	switch t := t.(type) {
	case *btf.Struct:
		fmt.Fprintf(w, "struct %s %d {", t.Name, t.Size)
		members(t.Members)
	case *btf.Union:
		fmt.Fprintf(w, "union %s %d {", t.Name, t.Size)
		members(t.Members)
	case *btf.Array:
		fmt.Fprintf(w, "[%d]", t.Nelems)
		writeType(w, t.Type, above)
	case *btf.Pointer: // of the variables that only name a type for Go
		fmt.Fprint(w, "*")
		writeType(w, t.Target, above)
	case *btf.Int:
		fmt.Fprintf(w, "int %d %v", t.Size, t.Encoding)
	default:
		fmt.Fprintf(w, "%s %s", strings.TrimPrefix(fmt.Sprintf("%T", t), "*btf."), t.TypeName())
	}
}
