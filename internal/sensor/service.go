package sensor

import (
	"fmt"
	"strings"
	"sync"
)

// wanting is what keeps which component from being ready, on its way to whoever asked to be told.
type wanting struct {
	tell func(component, reason string)

	mu      sync.Mutex
	reasons map[string]string // guarded by mu; by component
}

func newWanting(tell func(component, reason string)) *wanting {
	return &wanting{tell: tell, reasons: map[string]string{}}
}

func (w *wanting) set(component, reason string) {
	w.mu.Lock()
	if reason == "" {
		delete(w.reasons, component)
	} else {
		w.reasons[component] = reason
	}
	w.mu.Unlock()
	w.tell(component, reason)
}

// status is what the sensor does, in the words of an operator: "watches eth0, not eth1; streams to 2 of 3 controllers;
// follows directive 4.1".
func (a *agent) status() string {
	a.wanting.mu.Lock()
	defer a.wanting.mu.Unlock()
	lacks := func(component string) bool { return a.wanting.reasons[component] != "" }
	var watched, missing []string
	for _, x := range a.doors.list {
		name := x.Name
		if x.down {
			name += " (down)"
		}
		if lacks("interface " + x.Name) {
			missing = append(missing, name)
		} else {
			watched = append(watched, name)
		}
	}
	words := "watches nothing"
	if len(watched) > 0 {
		words = "watches " + strings.Join(watched, " ")
	}
	if len(missing) > 0 {
		words += ", not " + strings.Join(missing, " ")
	}
	streams := 0
	for _, c := range a.o.Controllers {
		if !lacks("controller " + c.Address) {
			streams++
		}
	}
	words += fmt.Sprintf("; streams to %d of %d controllers; ", streams, len(a.o.Controllers))
	if v := a.follows.Load(); v != nil {
		words += "follows directive " + v.String()
	} else {
		words += "has no directive yet"
	}
	if a.restraint.state != keepsBudget {
		words += "; samples less to keep its CPU budget"
	}
	return words
}
