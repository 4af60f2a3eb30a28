package speaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// ErrNoSpeaker is what calls return, wrapped, when no speaker answers in time.
var ErrNoSpeaker = errors.New("no speaker answers")

// callTimeout bounds calls whose context has no deadline: nobody waits for ever for a speaker that hangs.
const callTimeout = 10 * time.Second

// setTimeout is that of Set: ten thousand routes to four routers take seconds on a busy machine.
const setTimeout = 30 * time.Second

// Client is the controller's side of a speaker.
type Client struct {
	socket string
	conn   *grpc.ClientConn
	rpc    pb.SpeakerServiceClient

	mu   sync.Mutex
	last *handed // what the speaker took last; nil when that is not known; guarded by mu
}

// Dial returns a client for the speaker on a unix socket. It connects when it is first used, and again when the speaker
// was restarted.
func Dial(socket string) (*Client, error) {
	conn, err := grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket; its mode says who may connect
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxStatusMessage), grpc.MaxCallSendMsgSize(maxStatusMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
	)
	if err != nil {
		return nil, fmt.Errorf("speaker on %s: %w", socket, err)
	}
	return &Client{socket: socket, conn: conn, rpc: pb.NewSpeakerServiceClient(conn)}, nil
}

// Close ends the client.
func (c *Client) Close() error { return c.conn.Close() }

func bounded(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// Set makes routes the only ones the speaker announces. It hands over what changed since the last Set where the speaker
// still has that one, and the whole set otherwise. What routes points to must not be changed afterwards. Routes it refused are
// in the result. It returns ErrStale when a newer set was applied, ErrWithdrawnAll while the red button is pressed, ErrNoSpeaker
// when nobody answers.
func (c *Client) Set(ctx context.Context, term, revision uint64, routes []Desired) (Result, error) {
	ctx, cancel := bounded(ctx, setTimeout)
	defer cancel()
	c.mu.Lock()
	last := c.last
	c.last = nil
	c.mu.Unlock()
	next := &handed{routes: slices.Clone(routes)}
	req := next.changeOf(last)
	var resp *pb.SetRoutesResponse
	err := errBase
	if req != nil {
		req.Term, req.Revision = term, revision
		var changed *pb.ChangeRoutesResponse
		changed, err = c.rpc.ChangeRoutes(ctx, req)
		if resp = changed.GetResult(); err != nil {
			err = c.wrap("change routes", err)
		}
	}
	if errors.Is(err, errBase) { // the speaker was restarted, or took a set of somebody else
		whole := &pb.SetRoutesRequest{Term: term, Revision: revision, Routes: make([]*pb.RouteSpec, len(routes))}
		for i, d := range routes {
			whole.Routes[i] = toSpec(d, next.texts[i])
		}
		if resp, err = c.rpc.SetRoutes(ctx, whole); err != nil {
			err = c.wrap("set routes", err)
		}
	}
	if err != nil {
		return Result{}, err
	}
	if next.set = resp.GetSet(); next.set != 0 {
		c.mu.Lock()
		c.last = next
		c.mu.Unlock()
	}
	res := Result{Announced: int(resp.GetAnnounced()), Withdrawn: int(resp.GetWithdrawn())}
	for _, r := range resp.GetRefused() {
		res.Refused = append(res.Refused, Refused{r.GetRoute(), r.GetInvariant(), r.GetReason()})
	}
	return res, nil
}

// Confirm tells the speaker that the set of this term and revision was that of the store after the session with this number
// (Status.Asks) had come up: what waits on that session and earlier ones is announced. A session of 0 is none: the speaker notes
// that its set is the store's. It returns ErrBehind while the speaker has an older set.
func (c *Client) Confirm(ctx context.Context, term, revision, session uint64) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	if _, err := c.rpc.ConfirmRoutes(ctx, &pb.ConfirmRoutesRequest{Term: term, Revision: revision, Session: session}); err != nil {
		return c.wrap("confirm routes", err)
	}
	return nil
}

// Status returns the state of the speaker.
func (c *Client) Status(ctx context.Context) (Status, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	resp, err := c.rpc.GetSpeakerStatus(ctx, &pb.GetSpeakerStatusRequest{})
	if err != nil {
		return Status{}, c.wrap("status", err)
	}
	return statusFromProto(resp.GetStatus()), nil
}

// Watch calls fn with the present status and after every change, until ctx ends or the speaker is gone. A speaker that
// hangs is noticed within 15 s.
func (c *Client) Watch(ctx context.Context, fn func(Status)) error {
	stream, err := c.rpc.WatchSpeaker(ctx, &pb.WatchSpeakerRequest{})
	if err != nil {
		return c.wrap("watch", err)
	}
	for {
		resp, err := stream.Recv()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("speaker on %s: watch: %w: it stopped", c.socket, ErrNoSpeaker)
		}
		if err != nil {
			return c.wrap("watch", err)
		}
		fn(statusFromProto(resp.GetStatus()))
	}
}

// WithdrawAll presses the red button and returns how many routes were withdrawn.
func (c *Client) WithdrawAll(ctx context.Context, requester, reason string) (int, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	resp, err := c.rpc.WithdrawAll(ctx, &pb.WithdrawAllRequest{Requester: requester, Reason: reason})
	if err != nil {
		return 0, c.wrap("withdraw all", err)
	}
	return int(resp.GetWithdrawn()), nil
}

// Release releases the red button. The next Set announces again.
func (c *Client) Release(ctx context.Context, requester, reason string) error {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	if _, err := c.rpc.ReleaseWithdrawAll(ctx, &pb.ReleaseWithdrawAllRequest{Requester: requester, Reason: reason}); err != nil {
		return c.wrap("release withdraw all", err)
	}
	return nil
}

// ReleaseQuarantine tries again what is kept from a router because it reset the session upon it; an empty route means all.
// It returns the routes.
func (c *Client) ReleaseQuarantine(ctx context.Context, peer, route, requester, reason string) ([]string, error) {
	ctx, cancel := bounded(ctx, callTimeout)
	defer cancel()
	resp, err := c.rpc.ReleaseQuarantine(ctx, &pb.SpeakerServiceReleaseQuarantineRequest{Peer: peer, Route: route, Requester: requester, Reason: reason})
	if err != nil {
		return nil, c.wrap("release quarantine", err)
	}
	return resp.GetRoutes(), nil
}

func (c *Client) wrap(what string, err error) error {
	st := status.Convert(err)
	kind := error(nil)
	switch st.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		kind = ErrNoSpeaker
	case codes.Canceled:
		kind = context.Canceled
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			switch info.GetReason() {
			case "STALE":
				kind = ErrStale
			case "WITHDRAWN_ALL":
				kind = ErrWithdrawnAll
			case "BASE":
				kind = errBase
			case "BEHIND":
				kind = ErrBehind
			case "NO_SESSION":
				kind = errNoSession
			}
		}
	}
	if kind == nil {
		return fmt.Errorf("speaker on %s: %s: %s", c.socket, what, st.Message())
	}
	return &callError{fmt.Sprintf("speaker on %s: %s: %s", c.socket, what, st.Message()), kind}
}

// callError says what the speaker said and is what callers branch on.
type callError struct {
	text string
	kind error
}

func (e *callError) Error() string { return e.text }
func (e *callError) Unwrap() error { return e.kind }
