package speaker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// A set that grows gives what the whole set gives, in the speaker, in what a router is to get and in what goes to it next:
// over random lives, with routers that are up and down, tight and roomy, with routes that are refused, leave, come back
// and are told to some routers only.
func TestGrowingIsReplacing(t *testing.T) {
	t.Parallel()
	grown := 0
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		profile := compile.Profile{Name: "test", MaxRules: []int{0, 0, 8}[rnd.IntN(3)], Budget: compile.Budget{Shared: []int{0, 0, 30}[rnd.IntN(3)]}}
		if rnd.IntN(4) == 0 {
			profile.Split, profile.Unmixed = 4, true
		}
		var both [2]*speaker
		for i := range both {
			s, r := bareSpeaker(t)
			r.peer.Profile = profile
			s.ready.Store(true)
			both[i] = s
		}
		now := time.Now()
		base := uint64(0)
		var set []Desired
		for step := range 60 {
			switch rnd.IntN(12) {
			case 0: // a session comes or goes
				up, keeps := rnd.IntN(3) > 0, rnd.IntN(2) == 0
				for _, s := range both {
					r := s.routers[0]
					r.mu.Lock()
					if r.out.end(); up {
						r.out.begin(now, compile.Tables(), keeps)
						r.out.flying = sendWindow // nothing goes out, so all that is to go out can be compared
					}
					r.place(now)
					r.mu.Unlock()
				}
			case 1: // a route leaves
				if len(set) > 0 {
					at := rnd.IntN(len(set))
					set = slices.Delete(slices.Clone(set), at, at+1)
				}
			case 2: // the router was handed some
				for _, s := range both {
					r := s.routers[0]
					r.mu.Lock()
					if r.out.up && len(r.out.add) > 0 {
						it := r.out.add[0]
						r.out.add = r.out.add[1:]
						r.out.added(now, it, nil)
					}
					r.mu.Unlock()
				}
			default:
				for range 1 + rnd.IntN(2) {
					ports := []string{"53", "53,123", "53,100-200"}[rnd.IntN(3)]
					d := desired(t, fmt.Sprintf("destination 192.0.2.%d/32 protocol udp source-port %s then %s", rnd.IntN(200), ports, []string{"discard", "rate-limit 1Mbps"}[rnd.IntN(2)]))[0]
					d.Created = now.Add(-time.Hour + time.Duration(step)*time.Second)
					if rnd.IntN(20) == 0 {
						d.Created = now.Add(-2 * time.Hour)
					}
					d.Manual = rnd.IntN(3) == 0
					if rnd.IntN(60) == 0 {
						d.Deadline = d.Deadline.Add(48 * time.Hour) // the kernel refuses it
					}
					if rnd.IntN(6) == 0 {
						d.Scope = []string{"edge2"}
					}
					if !slices.ContainsFunc(set, func(h Desired) bool { return h.Route.String() == d.Route.String() }) {
						set = append(slices.Clone(set), d)
					}
				}
			}
			specs := func(set []Desired) (out []*pb.RouteSpec) {
				for _, d := range set {
					out = append(out, toSpec(d, d.Route.String()))
				}
				return out
			}
			a, b := both[0], both[1]
			revision := uint64(step + 1)
			h := &handed{routes: set}
			var res Result
			err := errBase
			if req := h.changeOf(a.handedBefore(base)); req != nil {
				res, err = a.changeRoutes(1, revision, base, req.GetRoutes(), req.GetRemoved(), int(req.GetCount()))
			}
			if err != nil {
				res, err = a.setRoutes(1, revision, specs(set))
			}
			whole, werr := b.setRoutes(1, revision, specs(set))
			if err != nil || werr != nil {
				t.Fatal(err, werr)
			}
			base = res.set
			if len(a.state.items) > 0 && &a.state.items[0] == &a.asked.items[0] {
				grown++
			}
			if fmt.Sprint(res.Announced, res.Withdrawn, res.Refused) != fmt.Sprint(whole.Announced, whole.Withdrawn, whole.Refused) {
				t.Fatalf("seed %d, step %d: %+v, the whole set %+v", seed, step, res, whole)
			}
			if got, want := inner(a), inner(b); got != want {
				t.Fatalf("seed %d, step %d, profile %+v:\n%s\nthe whole set\n%s", seed, step, profile, got, want)
			}
		}
	}
	if grown < 50 {
		t.Errorf("only %d sets of 360 were taken as grown", grown)
	}
}

// handedBefore is what a client knows who handed over the last set.
func (s *speaker) handedBefore(set uint64) *handed {
	if set == 0 {
		return nil
	}
	h := &handed{set: set}
	for _, it := range s.asked.items {
		h.routes, h.texts = append(h.routes, it.Desired), append(h.texts, it.text)
	}
	return h
}

// inner is what a speaker and its router hold, in words.
func inner(s *speaker) string {
	texts := func(items []*item) (out []string) {
		for _, it := range items {
			out = append(out, fmt.Sprint(it.text, it.Deadline.UTC(), it.Manual))
		}
		return out
	}
	r := s.routers[0]
	r.mu.Lock()
	defer r.mu.Unlock()
	not, fresh, have := map[string]notFor{}, []string{}, 0
	for id, n := range r.not {
		not[id] = n
	}
	for id := range r.out.fresh {
		fresh = append(fresh, id)
	}
	slices.Sort(fresh)
	for _, it := range s.state.items {
		if s.have[it.id] == it {
			have++
		}
	}
	return fmt.Sprintf("state %v\nhave %d %d keys %d\nset %v\nrules %v\ncost %d\nnot %v\norder %v\nadd %v\nwanted %v\nfresh %v\ndrop %d stale %d",
		texts(s.state.items), have, len(s.have), len(s.keys), texts(r.set), texts(r.placed.rules), r.placed.cost, not, texts(r.out.order), texts(r.out.add),
		r.out.wanted, fresh, len(r.out.drop), len(r.out.stale))
}
