package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/probe"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// speakerWatch keeps what the speaker says of itself, and says what changed.
type speakerWatch struct {
	client *speaker.Client
	c      *Controller

	mu     sync.Mutex
	status speaker.Status    // guarded by mu; the last there was
	err    string            // guarded by mu; why the speaker cannot be asked now
	placed map[string]placed // guarded by mu; by route
	peers  map[string]speaker.SessionState
	sent   map[string]bool // "route\x00peer"
	jailed map[string]bool // the same
	held   map[string]bool // by router and family
}

func newSpeakerWatch(client *speaker.Client, c *Controller) *speakerWatch {
	w := &speakerWatch{client: client, c: c, err: "the speaker has not answered yet", peers: map[string]speaker.SessionState{}, sent: map[string]bool{}}
	if len(c.o.Config.Speaker.Peers) == 0 {
		w.err = "no routers are configured, so there is no speaker"
		c.health.Set("routers", "none are configured: nothing is announced")
		return w
	}
	c.health.Set("speaker", w.err)
	return w
}

// get returns the last status, and why it may be old.
func (w *speakerWatch) get() (speaker.Status, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status, w.err
}

func (w *speakerWatch) run(ctx context.Context) error {
	const pause = 200 * time.Millisecond
	for {
		fresh := true
		err := w.client.Watch(ctx, func(s speaker.Status) {
			if fresh {
				fresh = false
				w.found(s)
			}
			w.take(s)
		})
		if ctx.Err() != nil {
			return nil
		}
		w.lost(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// found is called when the speaker answers after it did not: it may be another one, and may lack what it should have.
func (w *speakerWatch) found(s speaker.Status) {
	w.c.emit(audit.SpeakerUp, fmt.Sprintf("the speaker answers (process %d, version %s)", s.PID, s.Version), nil)
	w.c.announce.Again()
}

func (w *speakerWatch) lost(err error) {
	if err == nil {
		err = errors.New("it ended the stream")
	}
	reason := fmt.Sprintf("the speaker does not answer: %v", err)
	w.mu.Lock()
	was := w.err
	w.err = reason
	w.mu.Unlock()
	w.c.health.Set("speaker", reason)
	w.c.confirm.asks(0)
	if was == "" {
		w.c.log.Error("the speaker does not answer", "err", err)
		w.c.emit(audit.SpeakerDown, reason, nil)
	}
}

// take keeps a status and records what changed since the one before.
func (w *speakerWatch) take(s speaker.Status) {
	w.mu.Lock()
	before := w.status.WithdrawnAllBy
	w.status, w.err, w.placed = s, "", placedOf(s)
	w.mu.Unlock()
	w.c.health.Set("speaker", "")
	w.c.confirm.asks(s.Asks)
	switch by := s.WithdrawnAllBy; {
	case by != "" && by != before:
		w.c.log.Error("the red button is pressed: nothing is announced until it is released", "by", by)
		w.c.emit(audit.RedButton, "the red button is pressed, everything is withdrawn: "+by, map[string]string{"requester": by})
	case by == "" && before != "":
		w.c.emit(audit.RedButton, "the red button is released: what is desired is announced again", nil)
		w.c.announce.Again() // nothing else changed, so nobody else would
	}

	up := 0
	for _, p := range s.Peers {
		if p.State == speaker.Established {
			up++
		}
		state, known := w.peers[p.Name]
		w.peers[p.Name] = p.State
		about := map[string]string{"peer": p.Name, "address": p.Address}
		switch was, is := state == speaker.Established, p.State == speaker.Established; {
		case is && !was:
			w.c.emit(audit.PeerUp, fmt.Sprintf("the session with %s (%s) is established", p.Name, p.Address), about)
		case was && !is && known:
			w.c.emit(audit.PeerDown, fmt.Sprintf("the session with %s (%s) is down: %s", p.Name, p.Address, p.LastError), about)
		}
	}
	reason := ""
	if up == 0 {
		reason = "no router has an established session: nothing reaches the network"
	}
	w.c.health.Set("routers", reason)
	pressed := ""
	if s.WithdrawnAllBy != "" {
		pressed = "pressed, no route is announced until it is released (tmctl withdraw --release): " + s.WithdrawnAllBy
	}
	w.c.health.Set("red button", pressed)

	sent := make(map[string]bool, len(w.sent))
	jailed := map[string]bool{}
	held := map[string]bool{} // peer and family
	for _, p := range s.Peers {
		for _, h := range p.Held {
			k := p.Name + "\x00" + string(h.Table)
			if held[k] = true; !w.held[k] {
				w.c.emit(audit.Quarantined, fmt.Sprintf("%s: %s", p.Name, h.Reason), map[string]string{"family": string(h.Table), "peer": p.Name})
			}
		}
	}
	w.held = held
	for _, r := range s.Routes {
		text, table := r.Route.String(), string(compile.TableOf(r.Route))
		for _, p := range r.Peers {
			k := text + "\x00" + p.Peer
			if p.State == speaker.Quarantined && !held[p.Peer+"\x00"+table] { // of a family one event is enough
				if jailed[k] = true; !w.jailed[k] {
					w.c.emit(audit.Quarantined, fmt.Sprintf("%s is kept from %s: %s", text, p.Peer, p.Reason), map[string]string{"route": text, "peer": p.Peer})
				}
			}
			if p.State != speaker.Sent {
				continue
			}
			sent[k] = true
			if !w.sent[k] {
				w.c.emit(audit.RouteSent, fmt.Sprintf("%s was sent to %s", text, p.Peer), map[string]string{"route": text, "peer": p.Peer, "sent": p.Sent.UTC().Format(time.RFC3339Nano)})
			}
		}
	}
	still := map[string]bool{}
	for _, r := range s.Routes {
		still[r.Route.String()] = true
	}
	for _, k := range slices.Sorted(maps.Keys(w.sent)) {
		if text, peer, _ := strings.Cut(k, "\x00"); !sent[k] && !still[text] {
			w.c.emit(audit.RouteWithdrawn, fmt.Sprintf("%s was withdrawn from %s", text, peer), map[string]string{"route": text, "peer": peer})
		}
	}
	w.sent, w.jailed = sent, jailed
}

// placed is how many routers have a route, and how many are told. A router that is asked has it when it says so, any other one when
// the route was sent to it.
type placed struct{ installed, routers int }

func placedOf(s speaker.Status) map[string]placed {
	out := make(map[string]placed, len(s.Routes))
	for _, r := range s.Routes {
		p := placed{routers: len(r.Peers)}
		for _, x := range r.Peers {
			if x.State == speaker.Sent && (x.Found.At.IsZero() || x.Found.State == probe.Installed) {
				p.installed++
			}
		}
		out[r.Route.String()] = p
	}
	return out
}

// answers tells how many routers have all routes of a mitigation, at least, and of how many.
func (w *speakerWatch) answers(m mitigation.Mitigation) (installed, routers int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != "" {
		return 0, 0
	}
	for i, r := range m.Routes {
		p := w.placed[r.String()]
		if i == 0 || p.installed < installed {
			installed = p.installed
		}
		routers = max(routers, p.routers)
	}
	return installed, routers
}
