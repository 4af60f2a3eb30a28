package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/legit"
)

// customer begins to ask the victim 400 questions a second over UDP, and returns when it has done so in peace for a time.
func (s *system) customer(peace time.Duration) *legit.Client {
	s.t.Helper()
	const rate, port = 400, 7007
	if _, err := s.Victim.Serve(port); err != nil {
		s.t.Fatal(err)
	}
	client, err := s.Client.Client(legit.Options{Rate: rate, Servers: []netip.AddrPort{netip.AddrPortFrom(lab.SiteVictim4, port)}})
	if err != nil {
		s.t.Fatal(err)
	}
	begun := time.Now()
	want := int(rate * peace.Seconds())
	if err := lab.Until(within(s.t, peace+patience), "the client's questions in peace", func(context.Context) error {
		if n := int(client.Between(begun, time.Now()).Asked); n < want {
			return fmt.Errorf("%d of %d questions", n, want)
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return client
}
