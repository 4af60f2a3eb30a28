package speaker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// What Set refuses as a whole.
var (
	ErrStale        = errors.New("the set is older than the one applied")
	ErrWithdrawnAll = errors.New("the red button is pressed")
	// ErrBehind says that the speaker does not have the set yet that is confirmed.
	ErrBehind = errors.New("the set applied is older than the one confirmed")
)

const (
	maxStatusMessage = 256 << 20 // 100,000 routes with four routers
	watchPause       = 20 * time.Millisecond
)

// service is SpeakerService: convert, call, convert.
type service struct {
	pb.UnimplementedSpeakerServiceServer
	s    *speaker
	stop context.Context // ends the watches when the speaker ends
}

func (s *speaker) serve(ctx context.Context, ln net.Listener) error {
	srv := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxStatusMessage), grpc.MaxSendMsgSize(maxStatusMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
	)
	pb.RegisterSpeakerServiceServer(srv, &service{s: s, stop: ctx})
	grpc_health_v1.RegisterHealthServer(srv, health.NewServer())
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		done := make(chan struct{})
		go func() { srv.GracefulStop(); close(done) }()
		select {
		case <-done:
		case <-time.After(2 * time.Second):
			srv.Stop()
		}
	})()
	err := srv.Serve(ln)
	if ctx.Err() != nil {
		<-stopped
		err = nil
	}
	os.Remove(s.o.Socket)
	return err
}

func (v *service) SetRoutes(_ context.Context, req *pb.SetRoutesRequest) (*pb.SetRoutesResponse, error) {
	res, err := v.s.setRoutes(req.GetTerm(), req.GetRevision(), req.GetRoutes())
	if err != nil {
		return nil, grpcError(err)
	}
	return resultToProto(res), nil
}

func (v *service) ChangeRoutes(_ context.Context, req *pb.ChangeRoutesRequest) (*pb.ChangeRoutesResponse, error) {
	res, err := v.s.changeRoutes(req.GetTerm(), req.GetRevision(), req.GetBase(), req.GetRoutes(), req.GetRemoved(), int(req.GetCount()))
	if err != nil {
		return nil, grpcError(err)
	}
	return &pb.ChangeRoutesResponse{Result: resultToProto(res)}, nil
}

func (v *service) ConfirmRoutes(_ context.Context, req *pb.ConfirmRoutesRequest) (*pb.ConfirmRoutesResponse, error) {
	if err := v.s.confirm(req.GetTerm(), req.GetRevision(), req.GetSession()); err != nil {
		return nil, grpcError(err)
	}
	return &pb.ConfirmRoutesResponse{}, nil
}

func resultToProto(res Result) *pb.SetRoutesResponse {
	out := &pb.SetRoutesResponse{Announced: uint32(res.Announced), Withdrawn: uint32(res.Withdrawn), Set: res.set}
	for _, r := range res.Refused {
		out.Refused = append(out.Refused, &pb.RefusedRoute{Route: r.Route, Invariant: r.Invariant, Reason: r.Reason})
	}
	return out
}

func (v *service) GetSpeakerStatus(context.Context, *pb.GetSpeakerStatusRequest) (*pb.GetSpeakerStatusResponse, error) {
	return &pb.GetSpeakerStatusResponse{Status: statusToProto(v.s.status())}, nil
}

func (v *service) WatchSpeaker(_ *pb.WatchSpeakerRequest, stream grpc.ServerStreamingServer[pb.WatchSpeakerResponse]) error {
	for {
		next := v.s.watch.next() // before the status is read, so that no change is missed
		if err := stream.Send(&pb.WatchSpeakerResponse{Status: statusToProto(v.s.status())}); err != nil {
			return err
		}
		select {
		case <-next:
		case <-stream.Context().Done():
			return nil
		case <-v.stop.Done():
			return status.Error(codes.Unavailable, "the speaker stops")
		}
		select { // a burst of changes is one message
		case <-time.After(watchPause):
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (v *service) WithdrawAll(_ context.Context, req *pb.WithdrawAllRequest) (*pb.WithdrawAllResponse, error) {
	if err := who(req.GetRequester(), req.GetReason()); err != nil {
		return nil, err
	}
	n, err := v.s.withdrawAll(req.GetRequester(), req.GetReason())
	if err != nil {
		return nil, grpcError(err)
	}
	return &pb.WithdrawAllResponse{Withdrawn: uint32(n)}, nil
}

func (v *service) ReleaseWithdrawAll(_ context.Context, req *pb.ReleaseWithdrawAllRequest) (*pb.ReleaseWithdrawAllResponse, error) {
	if err := who(req.GetRequester(), req.GetReason()); err != nil {
		return nil, err
	}
	if err := v.s.release(req.GetRequester(), req.GetReason()); err != nil {
		return nil, grpcError(err)
	}
	return &pb.ReleaseWithdrawAllResponse{}, nil
}

func (v *service) ReleaseQuarantine(_ context.Context, req *pb.SpeakerServiceReleaseQuarantineRequest) (*pb.SpeakerServiceReleaseQuarantineResponse, error) {
	if err := who(req.GetRequester(), req.GetReason()); err != nil {
		return nil, err
	}
	for _, r := range v.s.routers {
		if r.peer.Name != req.GetPeer() {
			continue
		}
		released := r.pardon(req.GetRoute())
		v.s.log.Warn("quarantine lifted", "peer", r.peer.Name, "routes", released, "by", req.GetRequester(), "reason", req.GetReason())
		return &pb.SpeakerServiceReleaseQuarantineResponse{Routes: released}, nil
	}
	return nil, status.Errorf(codes.NotFound, "peer: this speaker has no router %q", req.GetPeer())
}

func who(requester, reason string) error {
	var errs []error
	if strings.TrimSpace(requester) == "" {
		errs = append(errs, errors.New("requester: say who asks for it"))
	}
	if strings.TrimSpace(reason) == "" {
		errs = append(errs, errors.New("reason: say why; the next one on duty reads it"))
	}
	if len(errs) > 0 {
		return status.Error(codes.InvalidArgument, errors.Join(errs...).Error())
	}
	return nil
}

const errorDomain = "speaker.trafficmonitor"

func grpcError(err error) error {
	code, reason := codes.Internal, "FAILED"
	switch {
	case errors.Is(err, ErrStale):
		code, reason = codes.FailedPrecondition, "STALE"
	case errors.Is(err, ErrWithdrawnAll):
		code, reason = codes.FailedPrecondition, "WITHDRAWN_ALL"
	case errors.Is(err, errBase):
		code, reason = codes.FailedPrecondition, "BASE"
	case errors.Is(err, ErrBehind):
		code, reason = codes.FailedPrecondition, "BEHIND"
	case errors.Is(err, errNoSession):
		code, reason = codes.NotFound, "NO_SESSION"
	}
	st := status.New(code, err.Error())
	if with, derr := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain}); derr == nil {
		st = with
	}
	return st.Err()
}

// status is what the speaker knows now.
func (s *speaker) status() Status {
	st := s.shown.Load()
	out := Status{
		Version: s.o.Version, PID: os.Getpid(), Start: s.start, ASN: s.o.ASN, RouterID: s.o.RouterID.String(),
		Term: st.term, Revision: st.revision, WithdrawnAllBy: st.button.String(),
	}
	sessions := make([]session, len(s.routers))
	for i, r := range s.routers {
		sessions[i] = r.guard.snapshot()
		desired, in := r.counts(sessions[i])
		asked, until := r.waiting()
		out.Asks = max(out.Asks, asked)
		out.Peers = append(out.Peers, PeerStatus{
			Name: r.peer.Name, Group: r.peer.Group, Address: r.peer.Address.String(), ASN: r.peer.ASN,
			State: sessions[i].state, Since: sessions[i].since, Families: sessions[i].families, Missing: sessions[i].missing,
			Desired: desired, Routes: in, Established: sessions[i].established,
			LastError: sessions[i].lastError, LastErrorTime: sessions[i].lastErrorAt,
			StoreWait: until, Stalled: sessions[i].stalled,
			Held: r.heldFamilies(), Profile: r.peer.Profile.Name, Cost: r.cost(), Probed: r.prober.all(),
		})
	}
	out.Routes = make([]RouteStatus, 0, len(st.items))
	for _, it := range st.items {
		rs := RouteStatus{Desired: it.Desired, Peers: make([]PeerRoute, 0, len(s.routers))}
		for i, r := range s.routers {
			if it.tells(r.peer.Name) {
				rs.Peers = append(rs.Peers, r.routeState(it, sessions[i]))
			}
		}
		out.Routes = append(out.Routes, rs)
	}
	return out
}

// watchers wakes everybody who waits for a change.
type watchers struct {
	mu sync.Mutex
	ch chan struct{} // closed at the next change; guarded by mu
}

func (w *watchers) next() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ch == nil {
		w.ch = make(chan struct{})
	}
	return w.ch
}

func (w *watchers) changed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ch != nil {
		close(w.ch)
		w.ch = nil
	}
}

// probeSocket makes sure that nobody answers on the socket.
func probeSocket(path string) error {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return nil
	}
	c.Close()
	return fmt.Errorf("socket %s: another speaker answers there: stop it, or give this one another socket and journal", path)
}

// listenSocket opens the socket for its owner and group only, in place of a stale one. It gets its name when it has
// its mode, so nobody can connect before.
func listenSocket(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("create the socket's directory: %w", err)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("socket %s: something else than a socket is there: remove it or choose another path", path)
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o660), os.Rename(tmp, path)); err != nil {
		ln.Close()
		return nil, fmt.Errorf("open socket: %w", err)
	}
	return ln, nil
}
