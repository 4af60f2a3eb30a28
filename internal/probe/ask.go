package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Asker asks one router which rules it has. It is used by one goroutine at a time.
type Asker interface {
	// Ask returns a reading for each of these families that the router can be asked about and that it answered for; the
	// error tells of the others; it is ErrLate where the time was over before the answer was whole. A family without reading
	// and error cannot be asked about.
	Ask(ctx context.Context, families []route.Family) (map[route.Family]Reading, error)
}

// ErrLate is of an answer that was not whole within its time: the router worked on it for nothing.
var ErrLate = errors.New("no whole answer in time")

// late is ErrLate in words of its own.
type late struct{ error }

func (late) Is(target error) bool { return target == ErrLate }

// Shell asks by commands, one for each family.
type Shell struct {
	Command
	Parser     string // one of Parsers
	IPv4, IPv6 string // the commands; empty for none
	Counters   string // the command that shows what rules hit, where it is another; empty for none
}

// Ask implements Asker.
func (s Shell) Ask(ctx context.Context, families []route.Family) (map[route.Family]Reading, error) {
	out := map[route.Family]Reading{}
	var errs []error
	for _, f := range families {
		show := s.IPv4
		if f == route.IPv6 {
			show = s.IPv6
		}
		if show == "" {
			continue
		}
		text, err := s.Run(ctx, show)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if s.Counters != "" {
			hits, err := s.Run(ctx, s.Counters)
			if err != nil { // what is installed is known all the same
				errs = append(errs, err)
			}
			text = slices.Concat(text, []byte("\n"), hits)
		}
		reading, err := Parse(s.Parser, f, text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", show, err))
			continue
		}
		out[f] = reading
	}
	return out, errors.Join(errs...)
}
