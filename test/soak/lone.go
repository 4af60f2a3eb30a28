package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// lone is a speaker without a controller: it is handed ten times the rules a whole system would decide on in the same time, and its
// session lasts from the begin to the end.
type lone struct {
	router   *lab.BIRD
	client   *speaker.Client
	revision atomic.Uint64 // of the last set
}

// confirm says now and then that there is no newer set, as a controller does. What goes wrong with it the speaker's log tells.
func (o *lone) confirm(ctx context.Context) {
	for pause(ctx, 5*time.Second) {
		_ = o.client.Confirm(ctx, 1, o.revision.Load(), 0)
	}
}

const loneYAML = `name: three
data_dir: %[1]s/data-three
pprof: true
network: {own_prefixes: [%[2]s]}
safety: {max_rules: 20000, max_new_per_minute: 100000, max_rules_per_response: 20000, max_rules_per_group: 20000}
speaker:
  socket: %[1]s/three-speaker.sock
  telemetry: 127.0.0.1:7646
  asn: %[3]d
  router_id: 10.66.0.3
  store_wait: 0s
  peers: [{name: edge, address: %[4]s, asn: 65013, connect_retry: 1s}]
`

func (s *stage) startLone(ctx context.Context) (*lone, error) {
	o, config := &lone{}, filepath.Join(s.dir, "three.yaml")
	text := fmt.Sprintf(loneYAML, s.dir, ownRules, lab.SiteASN, lab.SiteRack)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	var err error
	o.router, err = s.site.Rack.StartBIRD(ctx, lab.RouterConfig{
		Name: "bird-three", RouterID: lab.SiteRack, ASN: 65013, Local: lab.SiteRack,
		Neighbors: []lab.Neighbor{{Name: "control", Address: lab.SiteControlForRack, ASN: lab.SiteASN, Passive: true}},
	})
	if err != nil {
		return nil, err
	}
	_, err = s.site.Control.Start(lab.Command{Name: "speaker-three", Argv: []string{filepath.Join(s.bin, "controller"), "speaker", "--config", config}, OnLine: s.listen("speaker three")})
	if err != nil {
		return nil, err
	}
	s.watch("speaker three", s.site.Control, "http://127.0.0.1:7646", true)
	if o.client, err = speaker.Dial(filepath.Join(s.dir, "three-speaker.sock")); err != nil {
		return nil, err
	}
	s.site.Lab.OnClose(func() { o.client.Close() })
	return o, o.router.WaitEstablished(ctx)
}

// change hands over a set a second in which rate rules are new and as many are gone; each lives for three seconds. In
// the last set there are none.
func (o *lone) change(ctx context.Context, rate int) error {
	began := time.Now()
	desired := func(text string, created time.Time, ttl time.Duration, owner string) (speaker.Desired, error) {
		r, err := route.Parse(text)
		return speaker.Desired{Route: r, Created: created, Deadline: created.Add(ttl), Owners: []string{owner}}, err
	}
	set := func(ctx context.Context, n int, first, end int) error {
		var routes []speaker.Desired
		for i := first; i < end; i++ {
			text := fmt.Sprintf("destination 10.9.%d.%d/32 protocol udp source-port 53 destination-port %d then rate-limit 1Mbps", i>>8&255, i&255, 1024+i>>16)
			d, err := desired(text, began.Add(time.Duration(i/rate)*time.Second), 10*time.Minute, "m-"+strconv.Itoa(i))
			if err != nil {
				return err
			}
			routes = append(routes, d)
		}
		for i := 0; i < standings && end > 0; i++ {
			d, err := desired(standing(i), began, 23*time.Hour, "standing-"+strconv.Itoa(i))
			if err != nil {
				return err
			}
			routes = append(routes, d)
		}
		res, err := o.client.Set(ctx, 1, uint64(n), routes)
		if err == nil && len(res.Refused) > 0 {
			err = fmt.Errorf("the lone speaker refused %d routes: %+v", len(res.Refused), res.Refused[0])
		}
		o.revision.Store(uint64(n))
		return err
	}
	n := 1
	for ; pause(ctx, time.Until(began.Add(time.Duration(n)*time.Second))); n++ {
		n = max(n, int(time.Since(began).Seconds())) // where the machine was too slow for a set, the next has its rules
		if err := set(ctx, n, max(0, n-3)*rate, n*rate); err != nil && ctx.Err() == nil {
			return err
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return set(end, n+1, 0, 0)
}
