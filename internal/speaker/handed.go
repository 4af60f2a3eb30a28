package speaker

import (
	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// handed is a set as it was handed over.
type handed struct {
	set    uint64 // the speaker's name for it
	routes []Desired
	texts  []string       // of routes
	at     map[string]int // index by text; made when it is needed
}

// changeOf returns what makes h out of the set handed over before, without term and revision, and fills in h.texts. It
// returns nil when there is none before, when a route stands twice, or when the whole set is shorter.
func (h *handed) changeOf(last *handed) *pb.ChangeRoutesRequest {
	h.texts = make([]string, len(h.routes))
	if last == nil {
		inParallel(len(h.routes), func(i int) { h.texts[i] = h.routes[i].Route.String() })
		return nil
	}
	req := &pb.ChangeRoutesRequest{Base: last.set, Count: uint32(len(h.routes))}
	// Sets keep their order, mostly: what stands next in the last one need not be looked for.
	kept, left, next, twice := make([]bool, len(last.routes)), len(last.routes), 0, false
	for i := range h.routes {
		d := &h.routes[i]
		at, known := next, next < len(last.routes) && last.routes[next].Route.Equal(d.Route)
		if known {
			h.texts[i] = last.texts[at]
		} else {
			h.texts[i] = d.Route.String()
			at, known = last.find(h.texts[i])
		}
		if !known {
			req.Routes = append(req.Routes, toSpec(*d, h.texts[i]))
			continue
		}
		if kept[at] {
			twice = true
			continue
		}
		kept[at], left, next = true, left-1, at+1
		if !last.routes[at].same(*d) {
			req.Routes = append(req.Routes, toSpec(*d, h.texts[i]))
		}
	}
	if twice || left+len(req.Routes) >= len(h.routes) {
		return nil
	}
	for at, text := range last.texts {
		if !kept[at] {
			req.Removed = append(req.Removed, text)
		}
	}
	return req
}

func (h *handed) find(text string) (at int, ok bool) {
	if h.at == nil {
		h.at = make(map[string]int, len(h.texts))
		for i, t := range h.texts {
			h.at[t] = i
		}
	}
	at, ok = h.at[text]
	return at, ok
}
