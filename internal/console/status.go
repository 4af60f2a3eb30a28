package console

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// ErrorDomain and the reasons below stand in the google.rpc.ErrorInfo of an error, for programs to branch on.
const (
	ErrorDomain        = "trafficmonitor"
	ReasonNotLeader    = "NOT_LEADER"
	ReasonRefused      = "REFUSED_BY_SAFETY"
	ReasonConflict     = "CONFLICT"
	ReasonUnavailable  = "UNAVAILABLE" // the controller answers, but a part of it cannot
	MetadataLeader     = "leader"
	MetadataAddress    = "address"
	preconditionPrefix = "SAFETY_" // of google.rpc.PreconditionFailure types
)

// toStatus turns an error of the system into what the caller sees.
func (s *service) toStatus(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	var (
		notLeader   ErrNotLeader
		refused     ErrRefused
		notFound    ErrNotFound
		invalid     ErrInvalid
		conflict    ErrConflict
		unavailable ErrUnavailable
	)
	switch {
	case errors.As(err, &notLeader):
		return withDetails(codes.FailedPrecondition, err, &errdetails.ErrorInfo{
			Domain: ErrorDomain, Reason: ReasonNotLeader,
			Metadata: map[string]string{MetadataLeader: notLeader.Leader, MetadataAddress: notLeader.Address},
		})
	case errors.As(err, &refused):
		p := &errdetails.PreconditionFailure{}
		for _, r := range refused.Refusals {
			p.Violations = append(p.Violations, &errdetails.PreconditionFailure_Violation{
				Type: preconditionPrefix + r.Invariant, Subject: r.Route, Description: r.Reason,
			})
		}
		return withDetails(codes.FailedPrecondition, err, &errdetails.ErrorInfo{Domain: ErrorDomain, Reason: ReasonRefused}, p)
	case errors.As(err, &invalid):
		b := &errdetails.BadRequest{}
		for _, f := range invalid.Fields {
			b.FieldViolations = append(b.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Field, Description: f.Reason})
		}
		return withDetails(codes.InvalidArgument, err, b)
	case errors.As(err, &conflict):
		return withDetails(codes.AlreadyExists, err, &errdetails.ErrorInfo{Domain: ErrorDomain, Reason: ReasonConflict})
	case errors.As(err, &notFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.As(err, &unavailable):
		return withDetails(codes.Unavailable, err, &errdetails.ErrorInfo{Domain: ErrorDomain, Reason: ReasonUnavailable})
	case errors.Is(err, context.DeadlineExceeded):
		return status.Errorf(codes.DeadlineExceeded, "%s: %v: it may have happened all the same; look before repeating it", method, err)
	case errors.Is(err, context.Canceled):
		return status.Errorf(codes.Canceled, "%s: %v", method, err)
	}
	s.log.ErrorContext(ctx, "console call ended in an internal error", "method", method, "err", err)
	return status.Errorf(codes.Internal, "%s: %v", method, err)
}

func withDetails(code codes.Code, err error, details ...protoadapt.MessageV1) error {
	st := status.New(code, err.Error())
	if detailed, err := st.WithDetails(details...); err == nil {
		return detailed.Err()
	}
	return st.Err() // text that is not UTF-8 cannot be a detail
}
