package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

// NoGroupError says that the policy in force has no such group.
type NoGroupError struct {
	Group string
	Known []string
}

func (e *NoGroupError) Error() string {
	s := fmt.Sprintf("%q is no group of the policy in force; it has %s", e.Group, strings.Join(e.Known, ", "))
	if near := document.Nearest(e.Group, e.Known); near != "" {
		s += fmt.Sprintf("; did you mean %s?", near)
	}
	return s
}

// FreezeGroup stops automation for the targets of a group of the policy and returns the freeze.
func (e *Engine) FreezeGroup(ctx context.Context, group, requester, reason string) (f mitigation.Freeze, err error) {
	err = e.do(ctx, func(now time.Time) error {
		if e.machine == nil {
			return ErrNotLeading
		}
		if known := e.policy.GroupNames(); !slices.Contains(known, group) {
			return &NoGroupError{group, known}
		}
		f = mitigation.Freeze{Group: group, Since: now, Requester: requester, Reason: reason}
		return e.setGroupFreeze(e.machine.FreezeGroup(f), audit.GroupFreezeSet, "stops", group, requester, reason)
	})
	return f, err
}

// UnfreezeGroup resumes automation for the targets of a group, also of one that the policy has no more.
func (e *Engine) UnfreezeGroup(ctx context.Context, group, requester, reason string) error {
	return e.do(ctx, func(time.Time) error {
		if e.machine == nil {
			return ErrNotLeading
		}
		c, err := e.machine.UnfreezeGroup(group)
		if err != nil {
			return err
		}
		return e.setGroupFreeze(c, audit.GroupFreezeLifted, "resumes", group, requester, reason)
	})
}

func (e *Engine) setGroupFreeze(c mitigation.Change, kind audit.Kind, verb, group, requester, reason string) error {
	if _, err := e.commit(c); err != nil {
		return &StoreError{err}
	}
	clear(e.retry)
	e.log.Info("automation", "state", kind, "group", group, "requester", requester, "reason", reason)
	e.o.Emit(kind, fmt.Sprintf("%s %s automation in group %s: %s", requester, verb, group, reason), map[string]string{"requester": requester, "reason": reason, "group": group})
	return nil
}
