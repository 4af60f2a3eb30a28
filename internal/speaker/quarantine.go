package speaker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// The quarantine stands beside the journal, in a file of its own: a speaker that starts without it finds every poison
// again, at the price of some resets, and announces what it must in any case.
//
//	{"edge1": [
//	  {"route": "destination 192.0.2.1/32 protocol udp then discard", "since": …, "until": …, "times": 1, "why": "…"},
//	  {"family": "ipv6-flowspec", "since": …, "until": …, "times": 1, "why": "…"}
//	]}

func (s *speaker) quarantineFile() string { return s.o.Journal + ".quarantine" }

// loadQuarantine reads what is kept from each router, routes by ID. What cannot be read is told and left out.
func (s *speaker) loadQuarantine() (routes map[string]map[string]*Quarantine, tables map[string]map[compile.Table]*Quarantine) {
	out := map[string]map[string]*Quarantine{}
	tables = map[string]map[compile.Table]*Quarantine{}
	data, err := os.ReadFile(s.quarantineFile())
	if errors.Is(err, fs.ErrNotExist) {
		return out, tables
	}
	var file map[string][]Quarantine
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil {
		s.log.Error("quarantine not read: routes that reset a router are tried again", "file", s.quarantineFile(), "err", err)
		return out, tables
	}
	for peer, records := range file {
		out[peer], tables[peer] = map[string]*Quarantine{}, map[compile.Table]*Quarantine{}
		for _, q := range records {
			sound := q.Times >= 1 && q.Until.Sub(q.Since) <= quarantineMost
			if t, err := compile.ParseTable(q.Family); err == nil && sound {
				tables[peer][t] = &q
				continue
			}
			r, err := route.Parse(q.Route)
			if err != nil || !sound {
				s.log.Error("quarantine of a route not read: it is tried again", "peer", peer, "route", q.Route, "family", q.Family, "err", err)
				continue
			}
			out[peer][r.ID()] = &q
		}
	}
	return out, tables
}

// keepQuarantine writes down what is kept from each router.
func (s *speaker) keepQuarantine() {
	file := map[string][]Quarantine{}
	for _, r := range s.routers {
		r.mu.Lock()
		for _, q := range r.out.blame.records {
			file[r.peer.Name] = append(file[r.peer.Name], *q)
		}
		for _, q := range r.out.blame.doubt.records {
			file[r.peer.Name] = append(file[r.peer.Name], *q)
		}
		r.mu.Unlock()
	}
	data, err := json.Marshal(file)
	if err == nil {
		err = (&journal{path: s.quarantineFile()}).replace(append(data, '\n'))
	}
	if err != nil {
		s.log.Error("quarantine not written: a speaker that starts anew tries these routes again", "err", fmt.Errorf("write %s: %w", s.quarantineFile(), err))
	}
}
