package tmctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// betweenLeaders is the pause before a call is repeated that found no leader.
const betweenLeaders = 250 * time.Millisecond

// ask makes one call, named in words by what ("list sensors"), and one more at the leader where only that can do it. While there is no
// leader it asks again, until the timeout is over: an election takes seconds, and what found no leader changed nothing.
func ask[T any](ctx context.Context, c *cli, what string, call func(context.Context, tmv1.ConsoleServiceClient) (T, error)) (T, error) {
	for deadline, said := time.Now().Add(c.timeout), false; ; said = true {
		got, again, err := askLeader(ctx, c, what, said, call)
		if !again || !time.Now().Before(deadline) {
			return got, err
		}
		if !said {
			fmt.Fprintf(c.Stderr, "tmctl: there is no leader at the moment; asking again for up to %v\n", c.timeout)
		}
		select {
		case <-ctx.Done():
			return got, err
		case <-time.After(min(betweenLeaders, time.Until(deadline))):
		}
	}
}

// askLeader asks once, and once more at the leader. again: there was none, so nothing was changed. said: where it asks was said before.
func askLeader[T any](ctx context.Context, c *cli, what string, said bool, call func(context.Context, tmv1.ConsoleServiceClient) (T, error)) (got T, again bool, err error) {
	got, err = askAt(ctx, c, c.address, call)
	leader, address, elsewhere := notLeader(err)
	if !elsewhere || address == "" || address == c.address {
		return got, elsewhere && leader == "", c.explain(what, c.address, err)
	}
	if !said {
		fmt.Fprintf(c.Stderr, "tmctl: %s does not lead; asking the leader %s at %s\n", clean(c.address), clean(leader), clean(address))
	}
	there, lerr := askAt(ctx, c, address, call)
	if lerr == nil {
		return there, false, nil
	}
	var bad *exitError
	if errors.As(lerr, &bad) { // it cannot be dialled from here
		return got, false, failed("%s: only the leader %s can, and %s cannot be asked from here: %w", what, leader, address, bad.err)
	}
	leader, _, elsewhere = notLeader(lerr)
	died := unsent(lerr, "dial ") // and no other is elected yet
	return got, elsewhere && leader == "" || died, c.explain(what, address, lerr)
}

// unsent tells that a call failed while connecting, at one of these steps: nothing was asked.
func unsent(err error, steps ...string) bool {
	message := plain(status.Convert(err).Message())
	return status.Code(err) == codes.Unavailable && errorInfo(err) == nil &&
		slices.ContainsFunc(steps, func(step string) bool { return strings.Contains(message, step) })
}

func askAt[T any](ctx context.Context, c *cli, address string, call func(context.Context, tmv1.ConsoleServiceClient) (T, error)) (T, error) {
	var none T
	conn, err := c.dial(address)
	if err != nil {
		return none, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return call(ctx, tmv1.NewConsoleServiceClient(conn))
}

func (c *cli) dial(address string) (*grpc.ClientConn, error) {
	conn, err := rpc.Dial(address, c.tls)
	if err != nil {
		return nil, &exitError{ExitUsage, err}
	}
	return conn, nil
}

// errorInfo returns the google.rpc.ErrorInfo of an error of ours, or nil.
func errorInfo(err error) *errdetails.ErrorInfo {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == console.ErrorDomain {
			return info
		}
	}
	return nil
}

func notLeader(err error) (leader, address string, ok bool) {
	info := errorInfo(err)
	if info == nil || info.Reason != console.ReasonNotLeader {
		return "", "", false
	}
	return info.Metadata[console.MetadataLeader], info.Metadata[console.MetadataAddress], true
}

// explain turns an error of a call into what to tell a person: what was attempted, where, and what to do.
func (c *cli) explain(what, address string, err error) error {
	var done *exitError
	if err == nil || errors.As(err, &done) {
		return err
	}
	st := status.Convert(err)
	message := clean(plain(st.Message()))
	at := fmt.Errorf("%s at %s: %s", what, address, message)
	switch st.Code() {
	case codes.Unavailable:
		if errorInfo(err) != nil {
			return &exitError{ExitFailed, fmt.Errorf("%w: try again when tmctl status says that the controller is ready", at)}
		}
		doubt := c.unsure()
		if unsent(err, "dial ", "handshake") {
			doubt = ""
		}
		return &exitError{ExitUnreachable, fmt.Errorf("%s: cannot reach %s: %s: %s%s", what, address, message, c.hint(address, message), doubt)}
	case codes.DeadlineExceeded:
		return &exitError{ExitUnreachable, fmt.Errorf("%s: no answer from %s within %v (--timeout)%s", what, address, c.timeout, c.unsure())}
	case codes.Canceled:
		return &exitError{ExitUnreachable, fmt.Errorf("%s at %s: interrupted%s", what, address, c.unsure())}
	case codes.Unauthenticated:
		return &exitError{ExitUnreachable, fmt.Errorf("%w: name your certificate with --tls-ca, --tls-cert and --tls-key", at)}
	case codes.InvalidArgument:
		return &exitError{ExitUsage, fmt.Errorf("%s: %s", what, message)}
	case codes.Unimplemented:
		return &exitError{ExitFailed, fmt.Errorf("%w: is this the address of a controller's console, and is it as new as this tmctl?", at)}
	}
	return &exitError{ExitFailed, at}
}

// unsure says what a missing answer means where something was to be changed.
func (c *cli) unsure() string {
	if !c.changes {
		return ""
	}
	return ": it may have happened all the same; look before repeating it"
}

// plain takes gRPC's wrapping off what went wrong with a connection.
func plain(message string) string {
	if inner, ok := strings.CutPrefix(message, "connection error: desc = "); ok {
		if text, err := strconv.Unquote(inner); err == nil {
			message = text
		}
	}
	return strings.TrimPrefix(strings.TrimPrefix(message, "transport: "), "Error while dialing: ")
}

// hint says what to do about an address that does not answer.
func (c *cli) hint(address, message string) string {
	switch {
	case strings.Contains(message, "permission denied"):
		return "the socket belongs to the user the controller runs as: use sudo"
	case strings.Contains(message, "certificate"), strings.Contains(message, "tls:"), strings.Contains(message, "handshake"):
		return "look at --tls-ca, --tls-cert and --tls-key, and at the controller's log"
	case strings.HasPrefix(address, "unix:"):
		return "is the controller running on this machine? Else name one with --address host:port"
	case strings.Contains(message, "dial "):
		return "is the controller running there? See --address"
	case c.tls.Enabled():
		return "it hung up; does it accept your certificate (--tls-ca, --tls-cert, --tls-key), and is this the console's port? The controller's log says why"
	}
	return "it hung up; if the console wants certificates there, name yours with --tls-ca, --tls-cert and --tls-key"
}
