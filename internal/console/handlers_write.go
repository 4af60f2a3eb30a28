package console

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc/status"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// approved reports whether the caller may do what safety reserves for a person's approval.
func approved(ctx context.Context) bool {
	c := rpc.CallerFrom(ctx)
	return c.IsLocal() || c.Role == pki.RoleApprover
}

// changed logs a call that changes something, done or refused, and returns what the caller sees of err.
func (s *service) changed(ctx context.Context, method, requester string, err error, attrs ...slog.Attr) error {
	shown := s.toStatus(ctx, method, err)
	attrs = slices.DeleteFunc(attrs, func(a slog.Attr) bool { return a.Value.Kind() == slog.KindString && a.Value.String() == "" })
	attrs = append(attrs, slog.String("method", method), slog.String("requester", requester), slog.String("code", status.Code(shown).String()))
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
		s.log.LogAttrs(ctx, slog.LevelWarn, "change by hand refused", attrs...)
	} else {
		s.log.LogAttrs(ctx, slog.LevelInfo, "change by hand", attrs...)
	}
	return shown
}

// CreateMitigation announces a route by hand.
func (s *service) CreateMitigation(ctx context.Context, req *tmv1.CreateMitigationRequest) (*tmv1.CreateMitigationResponse, error) {
	var c check
	r, err := route.Parse(req.GetRoute())
	if err != nil {
		c.add("route", "%v", err)
	}
	a := Announce{
		Route:        r,
		TTL:          c.duration("ttl", req.GetTtl(), time.Second),
		Reason:       c.reason(req.GetReason()),
		RequestID:    c.id("request_id", req.GetRequestId()),
		Requester:    c.requester(ctx, req.GetRequester()),
		Approved:     approved(ctx),
		ValidateOnly: req.GetValidateOnly(),
		AskApproval:  req.GetAskApproval(),
	}
	if err := c.err(); err != nil {
		return nil, s.changed(ctx, "CreateMitigation", a.Requester, err)
	}
	m, err := s.system.Announce(ctx, a)
	err = s.changed(ctx, "CreateMitigation", a.Requester, err, slog.String("route", r.String()), slog.Duration("ttl", a.TTL),
		slog.String("reason", a.Reason), slog.Bool("validate_only", a.ValidateOnly), slog.String("mitigation", m.ID))
	if err != nil {
		return nil, err
	}
	out := &tmv1.CreateMitigationResponse{Mitigation: mitigationProto(m)}
	if a.ValidateOnly {
		p, err := s.system.Preview(ctx, r)
		if err != nil {
			return nil, s.toStatus(ctx, "CreateMitigation", err)
		}
		out.Preview = previewProto(p)
	}
	return out, nil
}

// answer reads a person's word about a mitigation.
func (c *check) answer(ctx context.Context, req interface {
	GetId() string
	GetReason() string
	GetRequester() string
},
) Answer {
	a := Answer{ID: c.id("id", req.GetId()), Reason: c.reason(req.GetReason()), Requester: c.requester(ctx, req.GetRequester())}
	if req.GetId() == "" {
		c.add("id", "must not be empty: name the mitigation")
	}
	return a
}

// word does what a person says about a mitigation, unless c found something wrong.
func (s *service) word(ctx context.Context, method string, c *check, a Answer, do func() (mitigation.Mitigation, error)) (*tmv1.Mitigation, error) {
	err := c.err()
	var m mitigation.Mitigation
	if err == nil {
		m, err = do()
	}
	if err := s.changed(ctx, method, a.Requester, err, slog.String("mitigation", a.ID), slog.String("reason", a.Reason)); err != nil {
		return nil, err
	}
	return mitigationProto(m), nil
}

// ApproveMitigation is a person's yes.
func (s *service) ApproveMitigation(ctx context.Context, req *tmv1.ApproveMitigationRequest) (*tmv1.ApproveMitigationResponse, error) {
	var c check
	a := c.answer(ctx, req)
	m, err := s.word(ctx, "ApproveMitigation", &c, a, func() (mitigation.Mitigation, error) { return s.system.Approve(ctx, a) })
	if err != nil {
		return nil, err
	}
	return &tmv1.ApproveMitigationResponse{Mitigation: m}, nil
}

// RejectMitigation is a person's no.
func (s *service) RejectMitigation(ctx context.Context, req *tmv1.RejectMitigationRequest) (*tmv1.RejectMitigationResponse, error) {
	var c check
	a := c.answer(ctx, req)
	m, err := s.word(ctx, "RejectMitigation", &c, a, func() (mitigation.Mitigation, error) { return s.system.Reject(ctx, a) })
	if err != nil {
		return nil, err
	}
	return &tmv1.RejectMitigationResponse{Mitigation: m}, nil
}

// ExtendMitigation keeps a mitigation longer.
func (s *service) ExtendMitigation(ctx context.Context, req *tmv1.ExtendMitigationRequest) (*tmv1.ExtendMitigationResponse, error) {
	var c check
	a := c.answer(ctx, req)
	by := c.duration("by", req.GetBy(), time.Second)
	m, err := s.word(ctx, "ExtendMitigation", &c, a, func() (mitigation.Mitigation, error) { return s.system.Extend(ctx, a, by) })
	if err != nil {
		return nil, err
	}
	return &tmv1.ExtendMitigationResponse{Mitigation: m}, nil
}

// WithdrawMitigations ends mitigations by identifier, by target, or all.
func (s *service) WithdrawMitigations(ctx context.Context, req *tmv1.WithdrawMitigationsRequest) (*tmv1.WithdrawMitigationsResponse, error) {
	var c check
	w := Withdraw{Reason: c.reason(req.GetReason()), Requester: c.requester(ctx, req.GetRequester())}
	switch sel := req.GetSelector().(type) {
	case *tmv1.WithdrawMitigationsRequest_Id:
		if w.ID = c.id("id", sel.Id); sel.Id == "" {
			c.add("id", "must not be empty: name the mitigation")
		}
	case *tmv1.WithdrawMitigationsRequest_Target:
		w.Target = c.prefix("target", sel.Target)
	case *tmv1.WithdrawMitigationsRequest_All:
		if w.All = sel.All; !sel.All {
			c.add("all", "must be true where it is set")
		}
	default:
		c.add("selector", "set exactly one of id, target and all")
	}
	if req.GetHold() != nil {
		hold := c.duration("hold", req.GetHold(), 0)
		w.Hold = &hold
	}
	if err := c.err(); err != nil {
		return nil, s.changed(ctx, "WithdrawMitigations", w.Requester, err)
	}
	done, err := s.system.Withdraw(ctx, w)
	target := ""
	if w.Target.IsValid() {
		target = w.Target.String()
	}
	err = s.changed(ctx, "WithdrawMitigations", w.Requester, err, slog.String("mitigation", w.ID), slog.String("target", target),
		slog.Bool("all", w.All), slog.String("reason", w.Reason), slog.Int("withdrawn", len(done.Mitigations)))
	if err != nil {
		return nil, err
	}
	return &tmv1.WithdrawMitigationsResponse{
		Mitigations: mapSlice(done.Mitigations, mitigationProto), Holds: mapSlice(done.Holds, holdProto),
	}, nil
}

// DeleteHold lets automation act on a target again.
func (s *service) DeleteHold(ctx context.Context, req *tmv1.DeleteHoldRequest) (*tmv1.DeleteHoldResponse, error) {
	var c check
	d := DeleteHold{
		Target: c.prefix("target", req.GetTarget()), Reason: c.reason(req.GetReason()), Requester: c.requester(ctx, req.GetRequester()),
	}
	err := c.err()
	if err == nil {
		err = s.system.DeleteHold(ctx, d)
	}
	if err := s.changed(ctx, "DeleteHold", d.Requester, err, slog.String("target", req.GetTarget()), slog.String("reason", d.Reason)); err != nil {
		return nil, err
	}
	return &tmv1.DeleteHoldResponse{}, nil
}

// ReleaseQuarantine lets the speaker try routes again that it keeps from a router.
func (s *service) ReleaseQuarantine(ctx context.Context, req *tmv1.ConsoleServiceReleaseQuarantineRequest) (*tmv1.ConsoleServiceReleaseQuarantineResponse, error) {
	var c check
	q := ReleaseQuarantine{Peer: req.GetPeer(), Reason: c.reason(req.GetReason()), Requester: c.requester(ctx, req.GetRequester())}
	if q.Peer == "" {
		c.add("peer", "name the router")
	}
	if text := req.GetRoute(); isFamily(text) {
		q.Family = text
	} else if text != "" {
		r, err := route.Parse(text)
		if err != nil {
			c.add("route", "%v", err)
		}
		q.Route = &r
	}
	var released []string
	err := c.err()
	if err == nil {
		released, err = s.system.ReleaseQuarantine(ctx, q)
	}
	err = s.changed(ctx, "ReleaseQuarantine", q.Requester, err, slog.String("peer", q.Peer), slog.String("route", req.GetRoute()),
		slog.Int("released", len(released)), slog.String("reason", q.Reason))
	if err != nil {
		return nil, err
	}
	return &tmv1.ConsoleServiceReleaseQuarantineResponse{Routes: released}, nil
}

// isFamily reports whether the text is the name of a family, such as ipv6-flowspec, rather than a route.
func isFamily(text string) bool {
	_, err := compile.ParseTable(text)
	return err == nil
}

// SetFreeze stops or resumes automation, or that of a group.
func (s *service) SetFreeze(ctx context.Context, req *tmv1.SetFreezeRequest) (*tmv1.SetFreezeResponse, error) {
	var c check
	f := SetFreeze{
		Frozen: req.GetFrozen(), Group: c.text("group", req.GetGroup(), maxID),
		Reason: c.reason(req.GetReason()), Requester: c.requester(ctx, req.GetRequester()),
	}
	if err := c.err(); err != nil {
		return nil, s.changed(ctx, "SetFreeze", f.Requester, err)
	}
	now, err := s.system.SetFreeze(ctx, f)
	if err := s.changed(ctx, "SetFreeze", f.Requester, err, slog.Bool("frozen", f.Frozen), slog.String("group", f.Group), slog.String("reason", f.Reason)); err != nil {
		return nil, err
	}
	return &tmv1.SetFreezeResponse{Freeze: freezeProto(now)}, nil
}
