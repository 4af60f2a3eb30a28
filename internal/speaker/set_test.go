package speaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// A set handed over as changes is the set handed over whole: over random sets, in random order, with refused routes among
// them, with a second client that comes between, a speaker that restarts and one that hangs.
func TestChangesAreTheSet(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	options := []Options{testOptions(t, newFakeRouter(t).peer("edge1")), testOptions(t, newFakeRouter(t).peer("edge1"))}
	whole, changed := start(t, options[0]), start(t, options[1])
	pool := manyRoutes(60)
	for i := range pool {
		pool[i].Created = pool[i].Created.Add(time.Duration(i) * time.Second)
	}
	for _, d := range desired(t, "destination 203.0.113.1/32 then discard", "destination 192.0.2.0/24 then discard") { // the kernel refuses both
		d.Manual = false
		pool = append(pool, d)
	}
	var set []Desired
	asChange := 0
	for step := range 150 {
		for range rnd.IntN(4) {
			at := rnd.IntN(len(set) + 1)
			switch d := pool[rnd.IntN(len(pool))]; {
			case rnd.IntN(2) == 0 && at < len(set):
				set = slices.Delete(slices.Clone(set), at, at+1)
			case slices.ContainsFunc(set, func(h Desired) bool { return h.Route.Equal(d.Route) }):
				set = slices.Clone(set)
				for i := range set {
					if set[i].Route.Equal(d.Route) {
						set[i].Deadline = set[i].Deadline.Add(time.Duration(rnd.IntN(2)) * time.Minute)
						set[i].Owners = []string{fmt.Sprint("m-", rnd.IntN(3))}
					}
				}
			default:
				set = slices.Insert(slices.Clone(set), at, d)
			}
		}
		switch rnd.IntN(20) {
		case 0:
			set = slices.Clone(set)
			rnd.Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
		case 1:
			other, err := Dial(options[1].Socket)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := other.Set(t.Context(), 1, uint64(step), pool[:3]); err != nil {
				t.Fatal(err)
			}
			other.Close()
		case 2:
			changed.stop()
			client := changed.client // what it knows of the last one must not fit the next
			changed = start(t, options[1])
			changed.client = client
		}
		fresh, err := Dial(options[0].Socket) // knows of no set, so it hands over all
		if err != nil {
			t.Fatal(err)
		}
		want, err := fresh.Set(t.Context(), 1, uint64(step), set)
		fresh.Close()
		if err != nil {
			t.Fatal(err)
		}
		if last := changed.client.last; last != nil && (&handed{routes: set}).changeOf(last) != nil {
			asChange++
		}
		got := changed.set(1, uint64(step), set)
		if !reflect.DeepEqual(got.Refused, want.Refused) {
			t.Fatalf("step %d: refused %+v, not %+v", step, got.Refused, want.Refused)
		}
		told := func(s *running) (out []Desired) {
			for _, r := range s.status().Routes {
				out = append(out, r.Desired)
			}
			return out
		}
		if a, b := told(whole), told(changed); !reflect.DeepEqual(a, b) {
			t.Fatalf("step %d: %d routes %+v, not %d %+v", step, len(b), b, len(a), a)
		}
	}
	if asChange < 50 {
		t.Errorf("only %d of 150 sets could be told as a change", asChange)
	}
}

// A change of another set than the last, or one that does not give what the controller has, changes nothing.
func TestChangeOfAnotherSet(t *testing.T) {
	t.Parallel()
	s, _ := bareSpeaker(t)
	specs := func(texts ...string) (out []*pb.RouteSpec) {
		for _, d := range desired(t, texts...) {
			out = append(out, toSpec(d, d.Route.String()))
		}
		return out
	}
	text := func(s string) string { return parse(t, s).String() }
	res, err := s.setRoutes(1, 1, specs(discard4, blackhole4))
	if err != nil || res.set == 0 {
		t.Fatalf("%+v %v", res, err)
	}
	for name, change := range map[string]func() error{
		"another base":    func() error { _, err := s.changeRoutes(1, 2, res.set+1, nil, nil, 2); return err },
		"another count":   func() error { _, err := s.changeRoutes(1, 2, res.set, specs(packets4), nil, 2); return err },
		"what is not in":  func() error { _, err := s.changeRoutes(1, 2, res.set, nil, []string{text(packets4)}, 2); return err },
		"the same, twice": func() error { _, err := s.changeRoutes(1, 2, res.set, specs(discard4, discard4), nil, 2); return err },
	} {
		if err := change(); !errors.Is(err, errBase) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st := s.status(); len(st.Routes) != 2 || st.Revision != 1 {
		t.Errorf("%+v", st)
	}
	if _, err := s.changeRoutes(1, 1, res.set, specs(packets4), []string{text(blackhole4)}, 2); err != nil {
		t.Error(err)
	}
	if _, err := s.changeRoutes(0, 9, res.set+1, nil, nil, 2); !errors.Is(err, ErrStale) {
		t.Errorf("an older term: %v", err)
	}
	if st := s.status(); len(st.Routes) != 2 || st.Routes[0].Route.String() != min(text(discard4), text(packets4)) {
		t.Errorf("%+v", st)
	}
	// A text that cannot be read was told by somebody who believes it is in the set: he must tell all again.
	res, err = s.setRoutes(1, 3, append(specs(discard4), &pb.RouteSpec{Route: "destination nowhere"}))
	if err != nil || res.set != 0 || len(res.Refused) != 1 {
		t.Errorf("%+v %v", res, err)
	}
	// Nor can anything be a change of a set that was not taken.
	full := errors.New("no space left on device")
	if res, err = s.setRoutes(1, 4, specs(discard4)); err != nil {
		t.Fatal(err)
	}
	s.journal.step = func(string) error { return full }
	if _, err := s.changeRoutes(1, 5, res.set, specs(blackhole4), nil, 2); !errors.Is(err, full) {
		t.Error(err)
	}
	s.journal.step = nil
	if _, err := s.changeRoutes(1, 6, res.set, nil, nil, 1); !errors.Is(err, errBase) {
		t.Errorf("a change of what failed: %v", err)
	}
}

func TestMerge(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	all := encodedItems(t, 12)
	sortItems(all)
	for range 2_000 {
		model := map[string]*item{}
		var base, changed []*item
		var removed []string
		for _, it := range all {
			other := it.with(Desired{Route: it.Route})
			switch rnd.IntN(6) {
			case 0, 1:
				base = append(base, it)
				model[it.text] = it
			case 2:
				base, changed = append(base, it), append(changed, other)
				model[it.text] = other
			case 3:
				base, removed = append(base, it), append(removed, it.text)
			case 4:
				changed = append(changed, other)
				model[it.text] = other
			}
		}
		rnd.Shuffle(len(changed), func(i, j int) { changed[i], changed[j] = changed[j], changed[i] })
		rnd.Shuffle(len(removed), func(i, j int) { removed[i], removed[j] = removed[j], removed[i] })
		got, added, ok := merge(base, changed, removed)
		var want []*item
		for _, text := range slices.Sorted(maps.Keys(model)) {
			want = append(want, model[text])
		}
		if !ok || !slices.Equal(got, want) || added != len(want)-(len(base)-len(removed)) {
			t.Fatalf("%d routes, want %d, %d were added", len(got), len(want), added)
		}
		if _, _, ok := merge(base, changed, append(removed, "a")); ok {
			t.Fatal("what is not there was taken out")
		}
	}
}

// A speaker that names no sets, because it is older than changes are, is handed whole ones.
func TestClientOfAnOlderSpeaker(t *testing.T) {
	c := &Client{socket: "s", rpc: &olderSpeaker{t: t}}
	for i := range 3 {
		if _, err := c.Set(context.Background(), 1, uint64(i), manyRoutes(3)); err != nil {
			t.Fatal(err)
		}
	}
}

type olderSpeaker struct {
	pb.SpeakerServiceClient
	t *testing.T
}

func (o *olderSpeaker) SetRoutes(_ context.Context, req *pb.SetRoutesRequest, _ ...grpc.CallOption) (*pb.SetRoutesResponse, error) {
	if len(req.GetRoutes()) != 3 {
		o.t.Errorf("%d routes", len(req.GetRoutes()))
	}
	return &pb.SetRoutesResponse{}, nil
}

func TestInParallel(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 1000, 1001} {
		var mu sync.Mutex
		var sum atomic.Int64
		seen := map[int]int{}
		inParallel(n, func(i int) {
			sum.Add(int64(i))
			mu.Lock()
			defer mu.Unlock()
			seen[i]++
		})
		if len(seen) != n || int(sum.Load()) != n*(n-1)/2 {
			t.Errorf("%d: %d were called, sum %d", n, len(seen), sum.Load())
		}
	}
}

// A route that ends on its way from the controller is over: nothing is refused, and nobody is alarmed.
func TestRouteThatEndsOnItsWay(t *testing.T) {
	s, _ := bareSpeaker(t)
	items := itemsOf(t, discard4, blackhole4, packets4)
	now := time.Now()
	items[1].Deadline = now.Add(-time.Millisecond)
	items[2].Deadline = now.Add(-2 * justEnded)
	text := items[2].text
	res, err := s.hand(1, 1, items)
	if err != nil || res.Announced != 1 || len(res.Refused) != 1 || res.Refused[0].Route != text || res.Refused[0].Invariant != RefusedDeadline {
		t.Errorf("%+v %v", res, err)
	}
	if len(s.state.items) != 1 {
		t.Errorf("%d routes are announced, want 1", len(s.state.items))
	}
}
