package telemetry

import (
	"maps"
	"slices"
	"sync"
)

// Health collects the reasons why a daemon is not ready. The zero Health is ready. It is safe for concurrent use.
type Health struct {
	mu      sync.Mutex
	reasons map[string]string // guarded by mu; by component
}

// Set says why component is not ready; an empty reason says that it is.
func (h *Health) Set(component, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if reason == "" {
		delete(h.reasons, component)
		return
	}
	if h.reasons == nil {
		h.reasons = map[string]string{}
	}
	h.reasons[component] = reason
}

// NotReady returns "component: reason" for every component that is not ready, sorted; empty when all are.
func (h *Health) NotReady() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, c := range slices.Sorted(maps.Keys(h.reasons)) {
		out = append(out, c+": "+h.reasons[c])
	}
	return out
}
