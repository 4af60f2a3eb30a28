package mitigation

import (
	"fmt"
	"net/netip"
)

// SetGroups tells the machine which groups of the policy a target is in, the narrowest first, and what a target is said to be
// in that is in none: for the freezes of groups, and for the quotas of what is made.
func (m *Machine) SetGroups(of func(target netip.Prefix) []string, none string) {
	m.groups, m.noGroup = of, none
}

// SetFreeze stops automation, or resumes it when f is nil. Freezes of groups stay.
func (m *Machine) SetFreeze(f *Freeze) Change {
	m.freeze = f
	return Change{SetFreeze: true, Freeze: f}
}

// FreezeGroup stops automation for the targets of f.Group; a freeze that was there before gives way.
func (m *Machine) FreezeGroup(f Freeze) Change {
	m.frozen[f.Group] = f
	return Change{Freezes: []Freeze{f}}
}

// UnfreezeGroup resumes automation for the targets of a group, as far as no other freeze holds there.
func (m *Machine) UnfreezeGroup(group string) (Change, error) {
	if _, ok := m.frozen[group]; !ok {
		return Change{}, fmt.Errorf("freeze of group %s: %w", group, ErrNotFound)
	}
	delete(m.frozen, group)
	return Change{Unfreeze: []string{group}}, nil
}

// FrozenFor returns the freeze that stops automation at a target: that of all, or of the narrowest group it is in.
func (m *Machine) FrozenFor(target netip.Prefix) (Freeze, bool) {
	if m.freeze != nil {
		return *m.freeze, true
	}
	if len(m.frozen) == 0 {
		return Freeze{}, false
	}
	groups := m.groupsOf(target)
	if len(groups) == 0 {
		groups = []string{m.noGroup}
	}
	for _, g := range groups {
		if f, ok := m.frozen[g]; ok {
			return f, true
		}
	}
	return Freeze{}, false
}

// where says what is frozen, to stand after "frozen".
func (f Freeze) where() string {
	if f.Group == "" {
		return ""
	}
	return " in group " + f.Group
}

func (m *Machine) groupsOf(target netip.Prefix) []string {
	if m.groups == nil {
		return nil
	}
	return m.groups(target)
}
