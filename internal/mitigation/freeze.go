package mitigation

import (
	"fmt"
	"net/netip"
)

// SetGroups tells the machine which groups of the policy a target is in, for the freezes of groups. It is asked at every look.
func (m *Machine) SetGroups(groups func(target netip.Prefix) []string) { m.groups = groups }

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
	if len(m.frozen) == 0 || m.groups == nil {
		return Freeze{}, false
	}
	for _, g := range m.groups(target) {
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
