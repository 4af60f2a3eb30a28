package speaker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
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
	profiles := []compile.Profile{
		{}, {MaxRules: 8}, {Budget: compile.Budget{Shared: 30}, Cost: compile.Cost{Expand: true}}, {Split: 4, Unmixed: true},
	}
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		profile := profiles[seed%uint64(len(profiles))]
		profile.Name = "test"
		hosts := 200
		if profile.Split > 0 {
			hosts = 8 // so that what one route is split into is often another one
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
		var set, gone []Desired
		for step := range 60 {
			switch rnd.IntN(14) {
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
					gone = append(gone, set[at])
					set = slices.Delete(slices.Clone(set), at, at+1)
				}
			case 3: // one comes back, younger
				if len(gone) > 0 {
					d := gone[len(gone)-1]
					gone = gone[:len(gone)-1]
					d.Created = now.Add(-time.Hour + time.Duration(step)*time.Second)
					if !slices.ContainsFunc(set, func(h Desired) bool { return h.Route.ID() == d.Route.ID() }) {
						set = append(slices.Clone(set), d)
					}
				}
			case 4: // one gets more time
				if len(set) > 0 {
					set = slices.Clone(set)
					set[rnd.IntN(len(set))].Deadline = now.Add(2*time.Hour + time.Duration(step)*time.Second)
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
					d := desired(t, fmt.Sprintf("destination 192.0.2.%d/32 protocol udp source-port %s then %s", rnd.IntN(hosts), ports, []string{"discard", "rate-limit 1Mbps"}[rnd.IntN(2)]))[0]
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
			a, b := both[0], both[1]
			revision := uint64(step + 1)
			res, whole := a.handOver(t, revision, base, set), b.handOver(t, revision, 0, set)
			base = res.set
			if len(a.state.items) > 0 && &a.state.items[0] == &a.asked.items[0] {
				grown++
			}
			if now, then := fmt.Sprint(itemTexts(a.state.items)), inner(t, a); !strings.Contains(then, "journal "+now+"\n") {
				t.Fatalf("seed %d, step %d: the journal does not say %s:\n%s", seed, step, now, then)
			}
			if fmt.Sprint(res.Announced, res.Withdrawn, res.Refused) != fmt.Sprint(whole.Announced, whole.Withdrawn, whole.Refused) {
				t.Fatalf("seed %d, step %d: %+v, the whole set %+v", seed, step, res, whole)
			}
			if got, want := inner(t, a), inner(t, b); got != want {
				t.Fatalf("seed %d, step %d, profile %+v:\n%s\nthe whole set\n%s", seed, step, profile, got, want)
			}
			if rnd.IntN(2) == 0 { // what was refused is asked for no more, so that the set can grow again
				set = slices.DeleteFunc(slices.Clone(set), func(d Desired) bool {
					return slices.ContainsFunc(res.Refused, func(r Refused) bool { return r.Route == d.Route.String() })
				})
			}
		}
	}
	if grown < 200 {
		t.Errorf("only %d sets of 720 were taken as grown", grown)
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
func inner(t *testing.T, s *speaker) string {
	t.Helper()
	written, _, err := s.journal.load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	texts := itemTexts
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
	return fmt.Sprintf("state %v\njournal %v\nhave %d %d\nset %v\nrules %v\ncost %d\nnot %v\norder %v\nadd %v\nwanted %v\nfresh %v\ndrop %d stale %d",
		texts(s.state.items), texts(written.items), have, len(s.have), texts(r.set), texts(r.placed.rules), r.placed.cost, not, texts(r.out.order), texts(r.out.add),
		r.out.wanted, fresh, len(r.out.drop), len(r.out.stale))
}

func itemTexts(items []*item) (out []string) {
	for _, it := range items {
		out = append(out, fmt.Sprint(it.text, it.Deadline.UTC(), it.Manual))
	}
	return out
}

// handOver hands over a set of these, as changes of the one before where it says so.
func (s *speaker) handOver(t *testing.T, revision, base uint64, set []Desired) Result {
	t.Helper()
	h := &handed{routes: set}
	var res Result
	var err error
	if req := h.changeOf(s.handedBefore(base)); req != nil {
		res, err = s.changeRoutes(1, revision, base, req.GetRoutes(), req.GetRemoved(), int(req.GetCount()))
	} else {
		var specs []*pb.RouteSpec
		for _, d := range set {
			specs = append(specs, toSpec(d, d.Route.String()))
		}
		res, err = s.setRoutes(1, revision, specs)
	}
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// A set does not grow past a route that ended, past the red button, or past a suspicion.
func TestSetsThatDoNotGrow(t *testing.T) {
	t.Run("an end", func(t *testing.T) {
		s, _ := bareSpeaker(t) // nobody keeps its deadlines
		set := desired(t, discard4, blackhole4)
		set[0].Deadline = time.Now().Add(50 * time.Millisecond)
		base := s.handOver(t, 1, 0, set).set
		waitFor(t, "the deadline", func() bool { return time.Now().After(set[0].Deadline) })
		young := desired(t, packets4)[0]
		young.Created = time.Now()
		s.handOver(t, 2, base, append(set, young))
		if got := itemTexts(s.state.items); len(got) != 2 || strings.Contains(fmt.Sprint(got), set[0].Route.String()) {
			t.Errorf("announced are %v", got)
		}
	})
	t.Run("the red button", func(t *testing.T) {
		s, _ := bareSpeaker(t)
		base := s.handOver(t, 1, 0, nil).set
		var pressed chan struct{}
		s.journal.step = func(name string) error {
			if name == "sync" && pressed == nil {
				pressed = make(chan struct{})
				go func() { _, _ = s.withdrawAll("ann", "test"); close(pressed) }()
				waitFor(t, "the button", func() bool {
					s.mu.Lock()
					defer s.mu.Unlock()
					return s.state.button != nil
				})
			}
			return nil
		}
		young := desired(t, packets4)[0]
		young.Created = time.Now()
		_, err := s.changeRoutes(1, 2, base, []*pb.RouteSpec{toSpec(young, young.Route.String())}, nil, 1)
		<-pressed
		if !errors.Is(err, ErrWithdrawnAll) || len(s.state.items) != 0 {
			t.Errorf("%v, announced are %v", err, itemTexts(s.state.items))
		}
		if st, _, err := s.journal.load(time.Now()); err != nil || len(st.items) != 0 || st.button == nil {
			t.Errorf("the journal says %v, %v, %v", itemTexts(st.items), st.button, err)
		}
	})
	t.Run("an end while the journal is written", func(t *testing.T) {
		s, _ := bareSpeaker(t)
		set := desired(t, discard4, blackhole4)
		set[0].Deadline = time.Now().Add(time.Second)
		base := s.handOver(t, 1, 0, set).set
		var once sync.Once
		s.journal.step = func(name string) error {
			if name == "sync" {
				once.Do(func() {
					waitFor(t, "the deadline", func() bool { return time.Now().After(set[0].Deadline) })
					s.expire(time.Now())
				})
			}
			return nil
		}
		young := desired(t, packets4)[0]
		young.Created = time.Now()
		s.handOver(t, 2, base, append(set, young))
		if got := itemTexts(s.state.items); len(got) != 2 || strings.Contains(fmt.Sprint(got), set[0].Route.String()) {
			t.Errorf("announced are %v", got)
		}
	})
	t.Run("a router under suspicion", func(t *testing.T) {
		items := encodedItems(t, 3)
		o := newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))
		o.begin(outboxNow, compile.Tables(), false)
		o.set(outboxNow, items[:2])
		if !o.grow(outboxNow, items, items[2:]) {
			t.Error("a router without suspicion does not grow")
		}
		o.held[items[2].id] = &held{item: items[2]}
		if o.grow(outboxNow, items, items[2:]) {
			t.Error("it grows with a route that the router has already")
		}
		delete(o.held, items[2].id)
		o.blame.careful = true
		if o.grow(outboxNow, items, items[2:]) {
			t.Error("it grows while suspects go last")
		}
		o.blame.careful = false
		o.blame.doubt.tables[compile.IPv4FlowSpec] = true
		if o.grow(outboxNow, items, items[2:]) {
			t.Error("it grows while a family is doubted")
		}
	})
}

// A route that stands twice in a set cannot be told as a change: the speaker holds each once, and counts.
func TestNoChangeWithARouteTwice(t *testing.T) {
	set := desired(t, discard4, blackhole4, packets4)
	last := &handed{set: 1, routes: set}
	if last.changeOf(nil) != nil {
		t.Error("a change of nothing")
	}
	if req := (&handed{routes: set}).changeOf(last); req == nil || len(req.GetRoutes()) != 0 {
		t.Errorf("the same set is %v", req)
	}
	if req := (&handed{routes: append(slices.Clone(set), set[0])}).changeOf(last); req != nil {
		t.Errorf("a set with a route twice is %v", req)
	}
}
