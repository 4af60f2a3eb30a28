package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// Groups names every group a target is in, the narrowest first: a group with a prefix that holds all of it. DefaultGroup is
// none of them.
func (p *Policy) Groups(target netip.Prefix) (groups []string) {
	for s := p.scope(target); s != p.base; s = s.parent {
		if !slices.Contains(groups, s.group) { // one group may lie around and inside another
			groups = append(groups, s.group)
		}
	}
	return groups
}

// GroupNames lists the groups with prefixes, and DefaultGroup, sorted.
func (p *Policy) GroupNames() []string {
	names := map[string]bool{DefaultGroup: true}
	for _, s := range p.scopes {
		names[s.group] = true
	}
	return slices.Sorted(maps.Keys(names))
}
