package console

import (
	"fmt"
	"strings"
)

// ErrNotLeader says that only the leader can do this.
type ErrNotLeader struct {
	Leader   string // empty when there is none
	Address  string // where its console is reached; empty when not known
	Changing bool   // there is none yet: this controller has just been elected, or leads no more
}

func (e ErrNotLeader) Error() string {
	switch {
	case e.Changing:
		return "leadership changes at this moment, and nothing was changed: try again"
	case e.Leader == "":
		return "there is no leader at the moment: nothing can be changed until one is elected; look at readiness of the controllers and of etcd"
	case e.Address == "":
		return fmt.Sprintf("this controller does not lead, %s does: ask it", e.Leader)
	}
	return fmt.Sprintf("this controller does not lead, %s does: ask it at %s", e.Leader, e.Address)
}

// ErrRefused says that the safety kernel refused a change; nothing was changed.
type ErrRefused struct{ Refusals []Refusal }

// Refusal is one reason of the safety kernel.
type Refusal struct {
	Route     string // in text form
	Invariant string
	Reason    string
}

func (e ErrRefused) Error() string {
	parts := make([]string, len(e.Refusals))
	for i, r := range e.Refusals {
		parts[i] = fmt.Sprintf("%s: %s", r.Invariant, r.Reason)
	}
	return "refused by the safety kernel, nothing was changed: " + strings.Join(parts, "; ")
}

// ErrNotFound says that what was named does not exist.
type ErrNotFound struct{ What string } // such as `mitigation "m-1"`

func (e ErrNotFound) Error() string { return "there is no " + e.What }

// ErrInvalid says which fields of a request are wrong.
type ErrInvalid struct{ Fields []FieldError }

// FieldError is one wrong field: its path in the request and what is wrong, in the words configuration errors use.
type FieldError struct{ Field, Reason string }

func (e ErrInvalid) Error() string {
	parts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		parts[i] = f.Field + ": " + f.Reason
	}
	return strings.Join(parts, "; ")
}

// ErrConflict says that the request contradicts what is there, such as a request_id used before for something else.
type ErrConflict struct{ Reason string }

func (e ErrConflict) Error() string { return e.Reason }

// ErrUnavailable says that a part this needs cannot be reached now, and that trying again later may help.
type ErrUnavailable struct{ Reason string }

func (e ErrUnavailable) Error() string { return e.Reason }
