package tmctl

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// redButton is what withdraw was told about it.
type redButton struct {
	now, release bool
	speakers     []string
}

// pressed is the result at one speaker, as -o json shows it.
type pressed struct {
	Speaker   string  `json:"speaker"`
	Withdrawn *uint32 `json:"withdrawn,omitempty"`
	Released  bool    `json:"released,omitempty"`
	Error     string  `json:"error,omitempty"`
}

// pressRedButton asks every speaker at the same time, so that one that hangs does not keep the others waiting.
func (c *cli) pressRedButton(ctx context.Context, red redButton, all bool, reason string, mixed bool) error {
	switch {
	case red.now && red.release:
		return usage("--now presses the red button and --release releases it: give one of them")
	case red.now && !all:
		return usage("--now withdraws everything: say so with --all")
	case mixed || red.release && all:
		return usage("the red button knows no mitigations, targets and holds: it is --all --now, or --release, with --speaker and --reason")
	}
	if err := needReason(reason); err != nil {
		return err
	}
	for i, s := range red.speakers {
		a, err := rpc.ParseAddress(s)
		if err != nil && len(s) > 0 && (s[0] == '/' || s[0] == '.') { // a plain path is clear enough in an emergency
			a, err = rpc.ParseAddress("unix:" + s)
		}
		if err != nil {
			return usage("--speaker: %w", err)
		}
		if a.Path == "" {
			return usage("--speaker %s: a speaker listens on a unix socket only, so press the red button on its machine", s)
		}
		red.speakers[i] = a.String()
	}
	c.changes = true
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	results := make([]pressed, len(red.speakers))
	errs := make([]error, len(red.speakers))
	var wg sync.WaitGroup
	for i, s := range red.speakers {
		wg.Go(func() { results[i], errs[i] = c.press(ctx, s, red.release, reason) })
	}
	wg.Wait()
	err := c.printValue(results, func() error {
		for _, r := range results {
			var line string
			switch {
			case r.Error != "":
				continue // told below
			case r.Released:
				line = fmt.Sprintf("%s: released; it takes routes again with the controller's next set.\n", clean(r.Speaker))
			default:
				line = fmt.Sprintf("%s: withdrawn %d; it takes no routes until: tmctl withdraw --release --speaker %s --reason ...\n", clean(r.Speaker), *r.Withdrawn, clean(r.Speaker))
			}
			if err := c.write(line); err != nil {
				return err
			}
		}
		return nil
	})
	code := ExitOK
	for _, e := range errs {
		var ee *exitError
		if errors.As(e, &ee) && (code == ExitOK || ee.code == ExitFailed) {
			code = ee.code
		}
	}
	if code != ExitOK {
		return &exitError{code, errors.Join(append(errs, err)...)}
	}
	return err
}

func (c *cli) press(ctx context.Context, speaker string, release bool, reason string) (pressed, error) {
	out := pressed{Speaker: speaker}
	what := "withdraw everything"
	if release {
		what = "release the red button"
	}
	fail := func(err error) (pressed, error) {
		if st := status.Convert(err); st.Code() == codes.Unavailable {
			err = &exitError{ExitUnreachable, fmt.Errorf("%s: cannot reach the speaker at %s: %s: is it running, is this its socket (speaker.socket in the controller's configuration), and are you root or its user?",
				what, speaker, clean(plain(st.Message())))}
		}
		err = c.explain(what, speaker, err)
		out.Error = err.Error()
		return out, err
	}
	conn, err := c.dial(speaker)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	cl := tmv1.NewSpeakerServiceClient(conn)
	if release {
		if _, err := cl.ReleaseWithdrawAll(ctx, &tmv1.ReleaseWithdrawAllRequest{Requester: c.requester, Reason: reason}); err != nil {
			return fail(err)
		}
		out.Released = true
		return out, nil
	}
	r, err := cl.WithdrawAll(ctx, &tmv1.WithdrawAllRequest{Requester: c.requester, Reason: reason})
	if err != nil {
		return fail(err)
	}
	out.Withdrawn = &r.Withdrawn
	return out, nil
}
