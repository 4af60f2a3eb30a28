package speaker

import (
	"strings"
	"testing"
	"time"
)

// A router that resets at a maximum of prefixes nobody told us of gets the most valuable up to it, and is not reset again
// and again; nothing is suspected for it.
func TestMaximumOfPrefixes(t *testing.T) {
	f := newFakeRouter(t)
	f.most = 7
	f.serve()
	s := start(t, testOptions(t, f.peer("edge1")))
	texts, _ := rules(20)
	s.set(1, 1, desired(t, texts...))
	waitFor(t, "seven routes", func() bool { return s.status().Peers[0].Routes[Sent] == 7 && f.count() == 7 })
	p := s.status().Peers[0]
	if p.Routes[NotPlaced] != 13 || p.Routes[Quarantined] != 0 || p.Established != 2 ||
		!strings.Contains(p.LastError, "maximum number of prefixes reached") || !strings.Contains(p.LastError, "its limit is 7 ipv4-flowspec routes") {
		t.Errorf("%+v", p)
	}
	for _, r := range s.status().Routes {
		if x := r.Peers[0]; x.State == NotPlaced && !strings.Contains(x.Reason, "its own maximum of prefixes, which is kept to until") {
			t.Errorf("%s: %s", r.Route, x.Reason)
		}
	}
	// What is worth more takes a place, and the session stays.
	s.set(1, 2, desired(t, append(texts, blackhole4)...))
	waitFor(t, "the blackhole", func() bool { _, ok := f.routes()["blackhole 192.0.2.3/32"]; return ok && f.count() == 7 })
	if n := f.sessions(); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

func TestRoofEnds(t *testing.T) {
	s, r := bareSpeaker(t)
	texts, _ := rules(5)
	if _, err := s.hand(1, 1, itemsOf(t, texts...)); err != nil {
		t.Fatal(err)
	}
	r.roof = roof{3, time.Now().Add(time.Hour)}
	r.place(time.Now())
	if len(r.out.order) != 3 || r.sendAll(t.Context()) <= 0 {
		t.Errorf("%d routes under a roof of three", len(r.out.order))
	}
	r.roof.until = time.Now()
	r.sendAll(t.Context())
	if len(r.out.order) != 5 || r.roof.rules != 0 {
		t.Errorf("%d routes after it", len(r.out.order))
	}
}

// What the data of a NOTIFICATION tells, and never more than it holds.
func TestNotificationDetails(t *testing.T) {
	for _, c := range []struct {
		data []byte
		sub  byte
		want string
	}{
		{[]byte{0, 2, 1, 0, 0, 3, 232}, 1, "its limit is 1000 ipv6-unicast routes"},
		{[]byte{0, 9, 9, 0, 0, 0, 5}, 1, "its limit is 5 prefixes"},
		{[]byte{0, 2}, 1, ""},
		{append([]byte{7}, "upgrade"...), 2, `the operator there says "upgrade"`},
		{append([]byte{3}, "a\xff\nb"...), 4, `the operator there says "a?\n"`},
		{append([]byte{200}, "short"...), 2, ""},
		{nil, 2, ""},
		{append([]byte{2}, "ok"...), 9, ""},
	} {
		n := &routerNotification{errCease, c.sub, c.data}
		got := n.Error()
		if c.want == "" && n.details() != "" || !strings.Contains(got, c.want) {
			t.Errorf("%v: %s", c.data, got)
		}
	}
}
