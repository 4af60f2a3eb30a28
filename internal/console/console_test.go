package console_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/console/consoletest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

// prefixes lets cmp compare what it cannot look into.
var prefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// serve starts a console over f in memory. log may be nil.
func serve(t testing.TB, f console.System, reg prometheus.Registerer, log io.Writer) tmv1.ConsoleServiceClient {
	t.Helper()
	return tmv1.NewConsoleServiceClient(dial(t, f, reg, log))
}

// serveConn is serve for callers who speak to the connection itself.
func serveConn(t testing.TB, f console.System) *grpc.ClientConn { return dial(t, f, nil, nil) }

func dial(t testing.TB, f console.System, reg prometheus.Registerer, log io.Writer) *grpc.ClientConn {
	t.Helper()
	if log == nil {
		log = io.Discard
	}
	s, err := console.New(console.Options{System: f, Log: slog.New(slog.NewTextHandler(log, nil)), Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	c, err := grpc.NewClient("passthrough:///console", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return c
}

func TestReading(t *testing.T) {
	c := serve(t, consoletest.New(), nil, nil)
	ctx := t.Context()

	st, err := c.GetStatus(ctx, &tmv1.GetStatusRequest{})
	if err != nil || st.Controller != "controller-1" || !st.IsLeader || st.Term != 7 || st.SensorsStale != 1 || st.RoutesSent != 2 || st.Freeze != nil {
		t.Errorf("status %v, %v", st, err)
	}
	sensors, err := c.ListSensors(ctx, &tmv1.ListSensorsRequest{})
	if err != nil || len(sensors.Sensors) != 2 || sensors.Sensors[0].Hello.Sensor != "rack1" || sensors.Sensors[1].Hello.Interfaces[0].Mode != tmv1.Interface_MODE_MIRROR {
		t.Errorf("sensors %v, %v", sensors, err)
	}
	peers, err := c.ListPeers(ctx, &tmv1.ListPeersRequest{})
	if err != nil || len(peers.Peers) != 2 || peers.Peers[0].Name != "edge1" || peers.Peers[1].State != tmv1.Peer_SESSION_STATE_ACTIVE {
		t.Errorf("peers %v, %v", peers, err)
	}
	incidents, err := c.ListIncidents(ctx, &tmv1.ListIncidentsRequest{})
	if err != nil || len(incidents.Incidents) != 2 || incidents.Incidents[0].Id != "i-2" || !cmp.Equal(incidents.Incidents[1].Mitigations, []string{"m-1"}) {
		t.Errorf("incidents %v, %v", incidents, err)
	}
	mitigations, err := c.ListMitigations(ctx, &tmv1.ListMitigationsRequest{IncludeEnded: true})
	if err != nil || len(mitigations.Mitigations) != 4 || mitigations.Mitigations[0].Id != "m-2" || mitigations.Mitigations[3].EndReason != "deadline" {
		t.Errorf("mitigations %v, %v", mitigations, err)
	}
	routes, err := c.ListRoutes(ctx, &tmv1.ListRoutesRequest{})
	if err != nil || len(routes.Routes) != 3 || len(routes.UnexpectedRoutes) != 1 || !strings.HasPrefix(routes.Routes[0].Spec.Route, "destination 2001:db8::10/128") {
		t.Errorf("routes %v, %v", routes, err)
	}
	holds, err := c.ListHolds(ctx, &tmv1.ListHoldsRequest{})
	if err != nil || len(holds.Holds) != 2 || holds.Holds[0].Target != "198.51.100.7/32" {
		t.Errorf("holds %v, %v", holds, err)
	}
	policy, err := c.GetPolicy(ctx, &tmv1.GetPolicyRequest{})
	if err != nil || !strings.Contains(policy.Text, "groups") || policy.LoadTime == nil {
		t.Errorf("policy %v, %v", policy, err)
	}
}

func TestWriting(t *testing.T) {
	f := consoletest.New()
	var log strings.Builder
	c := serve(t, f, nil, &log)
	ctx := t.Context()

	made, err := c.CreateMitigation(ctx, &tmv1.CreateMitigationRequest{
		Route: "destination 203.0.113.5 then discard", Ttl: durationpb.New(10 * time.Minute), Reason: " ticket 1 ", RequestId: "r1", Requester: "eva",
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.CreateMitigation(ctx, &tmv1.CreateMitigationRequest{
		Route: "destination 203.0.113.5 then discard", Ttl: durationpb.New(10 * time.Minute), Reason: "ticket 1", RequestId: "r1", Requester: "eva",
	})
	if err != nil || again.Mitigation.Id != made.Mitigation.Id {
		t.Errorf("repeated: %v %v, want %s", again, err, made.Mitigation.Id)
	}
	want := console.Announce{
		Route: consoletest.MustRoute("destination 203.0.113.5/32 then discard"), TTL: 10 * time.Minute, Reason: "ticket 1",
		RequestID: "r1", Requester: "eva (bufconn)", Approved: true,
	}
	if got := f.Calls(); len(got) != 2 || !cmp.Equal(got[0], any(want), prefixes) {
		t.Errorf("system was asked for %+v, want %+v", got, want)
	}

	word := console.Answer{ID: "m-1", Reason: "seen it", Requester: "ann (bufconn)"}
	approved, err := c.ApproveMitigation(ctx, &tmv1.ApproveMitigationRequest{Id: "m-1", Reason: "seen it", Requester: "ann"})
	if err != nil || approved.Mitigation.Phase != tmv1.Mitigation_PHASE_ANNOUNCED {
		t.Errorf("approve: %v %v", approved, err)
	}
	rejected, err := c.RejectMitigation(ctx, &tmv1.RejectMitigationRequest{Id: "m-1", Reason: "seen it", Requester: "ann"})
	if err != nil || rejected.Mitigation.Phase != tmv1.Mitigation_PHASE_REJECTED || rejected.Mitigation.EndReason != "rejected_by_hand: ann (bufconn): seen it" {
		t.Errorf("reject: %v %v", rejected, err)
	}
	extended, err := c.ExtendMitigation(ctx, &tmv1.ExtendMitigationRequest{Id: "m-1", Reason: "seen it", Requester: "ann", By: durationpb.New(time.Hour)})
	if err != nil || extended.Mitigation.Deadline.AsTime().Sub(consoletest.Now) != time.Hour+5*time.Minute {
		t.Errorf("extend: %v %v", extended, err)
	}
	if got := f.Calls(); len(got) != 3 || !cmp.Equal(got[0], any(word)) || !cmp.Equal(got[2], any(word)) {
		t.Errorf("system was asked for %+v, want %+v", got, word)
	}
	if _, err := c.ApproveMitigation(ctx, &tmv1.ApproveMitigationRequest{Id: "m-9", Reason: "seen it", Requester: "ann"}); status.Code(err) != codes.NotFound {
		t.Errorf("approve what is not there: %v", err)
	}

	done, err := c.WithdrawMitigations(ctx, &tmv1.WithdrawMitigationsRequest{
		Selector: &tmv1.WithdrawMitigationsRequest_Target{Target: "203.0.113.0/24"}, Reason: "mistake", Requester: "eva", Hold: durationpb.New(0),
	})
	if err != nil || len(done.Mitigations) != 2 || len(done.Holds) != 0 {
		t.Errorf("withdraw: %v %v", done, err)
	}
	done, err = c.WithdrawMitigations(ctx, &tmv1.WithdrawMitigationsRequest{
		Selector: &tmv1.WithdrawMitigationsRequest_All{All: true}, Reason: "mistake", Requester: "eva",
	})
	if err != nil || len(done.Mitigations) != 3 || len(done.Holds) != 3 || done.Mitigations[0].EndReason != "withdrawn_by_hand: eva (bufconn): mistake" {
		t.Errorf("withdraw all: %v %v", done, err)
	}
	if _, err := c.DeleteHold(ctx, &tmv1.DeleteHoldRequest{Target: "198.51.100.7", Reason: "x", Requester: "eva"}); err != nil {
		t.Error(err)
	}
	if _, err := c.DeleteHold(ctx, &tmv1.DeleteHoldRequest{Target: "198.51.100.8", Reason: "x", Requester: "eva"}); status.Code(err) != codes.NotFound {
		t.Errorf("hold that is not there: %v", err)
	}
	fr, err := c.SetFreeze(ctx, &tmv1.SetFreezeRequest{Frozen: true, Reason: "maintenance", Requester: "eva"})
	if err != nil || fr.Freeze.GetReason() != "maintenance" {
		t.Errorf("freeze: %v %v", fr, err)
	}
	if fr, err = c.SetFreeze(ctx, &tmv1.SetFreezeRequest{Reason: "done", Requester: "eva"}); err != nil || fr.Freeze != nil {
		t.Errorf("unfreeze: %v %v", fr, err)
	}
	for _, want := range []string{"change by hand", "requester=\"eva (bufconn)\"", "method=CreateMitigation", "reason=maintenance", "code=NotFound"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, &log)
		}
	}
}

func TestInvalidRequestsNameTheField(t *testing.T) {
	f := consoletest.New()
	c := serve(t, f, nil, nil)
	ctx := t.Context()
	create := func(r *tmv1.CreateMitigationRequest) func() error {
		return func() error { _, err := c.CreateMitigation(ctx, r); return err }
	}
	withdraw := func(r *tmv1.WithdrawMitigationsRequest) func() error {
		return func() error { _, err := c.WithdrawMitigations(ctx, r); return err }
	}
	ttl := durationpb.New(time.Minute)
	for _, tc := range []struct {
		name   string
		call   func() error
		fields map[string]string
	}{
		{"empty create", create(&tmv1.CreateMitigationRequest{}), map[string]string{
			"route": "no action", "ttl": "must be set", "reason": "must not be empty", "requester": "must not be empty",
		}},
		{"bad route", create(&tmv1.CreateMitigationRequest{Route: "destination banana then discard", Ttl: ttl, Reason: "r", Requester: "e"}), map[string]string{"route": "not a prefix"}},
		{"negative ttl", create(&tmv1.CreateMitigationRequest{Route: "destination 192.0.2.1 then discard", Ttl: durationpb.New(-time.Hour), Reason: "r", Requester: "e"}), map[string]string{"ttl": "is below 1s"}},
		{"impossible ttl", create(&tmv1.CreateMitigationRequest{Route: "destination 192.0.2.1 then discard", Ttl: &durationpb.Duration{Seconds: 1 << 62}, Reason: "r", Requester: "e"}), map[string]string{"ttl": "duration"}},
		{"long request_id", create(&tmv1.CreateMitigationRequest{Route: "destination 192.0.2.1 then discard", Ttl: ttl, Reason: "r", Requester: "e", RequestId: strings.Repeat("x", 129)}), map[string]string{"request_id": "at most 128"}},
		{"garbling", create(&tmv1.CreateMitigationRequest{Route: "destination 192.0.2.1 then discard", Ttl: ttl, Reason: "a\nlevel=INFO", Requester: "\x1b[2Jroot"}), map[string]string{"reason": "cannot be printed", "requester": "cannot be printed"}},
		{"long reason", create(&tmv1.CreateMitigationRequest{Route: "destination 192.0.2.1 then discard", Ttl: ttl, Reason: strings.Repeat("x", 501), Requester: "e"}), map[string]string{"reason": "at most 500"}},
		{"empty withdraw", withdraw(&tmv1.WithdrawMitigationsRequest{}), map[string]string{"selector": "exactly one", "reason": "must not be empty", "requester": "must not"}},
		{"empty id", withdraw(&tmv1.WithdrawMitigationsRequest{Selector: &tmv1.WithdrawMitigationsRequest_Id{}, Reason: "r", Requester: "e"}), map[string]string{"id": "must not be empty"}},
		{"bits beyond", withdraw(&tmv1.WithdrawMitigationsRequest{Selector: &tmv1.WithdrawMitigationsRequest_Target{Target: "192.0.2.1/24"}, Reason: "r", Requester: "e"}), map[string]string{"target": "192.0.2.0/24"}},
		{"empty answer", func() error { _, err := c.ApproveMitigation(ctx, &tmv1.ApproveMitigationRequest{}); return err }, map[string]string{"id": "must not be empty", "reason": "must not", "requester": "must not"}},
		{"empty rejection", func() error { _, err := c.RejectMitigation(ctx, &tmv1.RejectMitigationRequest{}); return err }, map[string]string{"id": "must not be empty", "reason": "must not", "requester": "must not"}},
		{"extension by nothing", func() error {
			_, err := c.ExtendMitigation(ctx, &tmv1.ExtendMitigationRequest{Id: "m-1", Reason: "r", Requester: "e"})
			return err
		}, map[string]string{"by": "must"}},
		{"all false", withdraw(&tmv1.WithdrawMitigationsRequest{Selector: &tmv1.WithdrawMitigationsRequest_All{}, Reason: "r", Requester: "e"}), map[string]string{"all": "must be true"}},
		{"negative hold", withdraw(&tmv1.WithdrawMitigationsRequest{Selector: &tmv1.WithdrawMitigationsRequest_All{All: true}, Reason: "r", Requester: "e", Hold: durationpb.New(-1)}), map[string]string{"hold": "below 0s"}},
		{"empty quarantine", func() error {
			_, err := c.ReleaseQuarantine(ctx, &tmv1.ConsoleServiceReleaseQuarantineRequest{Route: "x"})
			return err
		}, map[string]string{"peer": "name the router", "route": "has no action", "reason": "must not", "requester": "must not"}},
		{"empty hold", func() error { _, err := c.DeleteHold(ctx, &tmv1.DeleteHoldRequest{}); return err }, map[string]string{"target": "not a prefix", "reason": "must not", "requester": "must not"}},
		{"empty freeze", func() error { _, err := c.SetFreeze(ctx, &tmv1.SetFreezeRequest{Frozen: true}); return err }, map[string]string{"reason": "must not", "requester": "must not"}},
		{"page size", func() error {
			_, err := c.ListIncidents(ctx, &tmv1.ListIncidentsRequest{PageSize: 1001, PageToken: "?"})
			return err
		}, map[string]string{"page_size": "outside 1 to 1000", "page_token": "next_page_token"}},
		{"page size", func() error {
			_, err := c.ListMitigations(ctx, &tmv1.ListMitigationsRequest{PageSize: -1})
			return err
		}, map[string]string{"page_size": "outside 1 to 1000"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.call()
			st := status.Convert(err)
			if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 {
				t.Fatalf("%v with details %v, want INVALID_ARGUMENT with one", err, st.Details())
			}
			got := map[string]string{}
			for _, v := range st.Details()[0].(*errdetails.BadRequest).FieldViolations {
				got[v.Field] = v.Description
				if !strings.Contains(st.Message(), v.Field+": "+v.Description) {
					t.Errorf("message %q lacks %s: %s", st.Message(), v.Field, v.Description)
				}
			}
			if len(got) != len(tc.fields) {
				t.Errorf("violations %v, want %v", got, tc.fields)
			}
			for field, want := range tc.fields {
				if !strings.Contains(got[field], want) {
					t.Errorf("%s: %q lacks %q", field, got[field], want)
				}
			}
		})
	}
	if calls := f.Calls(); len(calls) != 0 {
		t.Errorf("the system was called with invalid requests: %+v", calls)
	}
}

func TestErrorsOfTheSystem(t *testing.T) {
	f := consoletest.New()
	reg := prometheus.NewPedanticRegistry()
	c := serve(t, f, reg, nil)
	announce := func() error {
		_, err := c.CreateMitigation(t.Context(), &tmv1.CreateMitigationRequest{
			Route: "destination 192.0.2.1 then discard", Ttl: durationpb.New(time.Minute), Reason: "r", Requester: "e",
		})
		return err
	}
	for _, tc := range []struct {
		err     error
		code    codes.Code
		message string
		reason  string
		meta    map[string]string
	}{
		{console.ErrNotLeader{Leader: "c2", Address: "c2.example:7443"}, codes.FailedPrecondition, "ask it at c2.example:7443", console.ReasonNotLeader, map[string]string{"leader": "c2", "address": "c2.example:7443"}},
		{console.ErrNotLeader{Leader: "c2"}, codes.FailedPrecondition, "c2 does: ask it", console.ReasonNotLeader, map[string]string{"leader": "c2", "address": ""}},
		{console.ErrNotLeader{Changing: true}, codes.FailedPrecondition, "leadership changes at this moment", console.ReasonNotLeader, map[string]string{"leader": "", "address": ""}},
		{console.ErrNotLeader{}, codes.FailedPrecondition, "there is no leader", console.ReasonNotLeader, map[string]string{"leader": "", "address": ""}},
		{console.ErrRefused{Refusals: []console.Refusal{{Route: "x", Invariant: "own_prefix", Reason: "192.0.2.1/32 is not ours"}}}, codes.FailedPrecondition, "own_prefix: 192.0.2.1/32 is not ours", console.ReasonRefused, nil},
		{fmt.Errorf("announce: %w", console.ErrConflict{Reason: "request_id was used"}), codes.AlreadyExists, "announce: request_id was used", console.ReasonConflict, nil},
		{console.ErrNotFound{What: "thing"}, codes.NotFound, "there is no thing", "", nil},
		{console.ErrUnavailable{Reason: "etcd does not answer"}, codes.Unavailable, "etcd does not answer", console.ReasonUnavailable, nil},
		{console.ErrInvalid{Fields: []console.FieldError{{Field: "ttl", Reason: "25h is above 24h"}}}, codes.InvalidArgument, "ttl: 25h is above 24h", "", nil},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "look before repeating", "", nil},
		{context.Canceled, codes.Canceled, "CreateMitigation", "", nil},
		{errors.New("disk on fire"), codes.Internal, "CreateMitigation: disk on fire", "", nil},
	} {
		t.Run(fmt.Sprintf("%T", tc.err), func(t *testing.T) {
			f.Fail("Announce", tc.err)
			st := status.Convert(announce())
			if st.Code() != tc.code || !strings.Contains(st.Message(), tc.message) {
				t.Errorf("%v, want %v with %q", st, tc.code, tc.message)
			}
			var info *errdetails.ErrorInfo
			for _, d := range st.Details() {
				if i, ok := d.(*errdetails.ErrorInfo); ok {
					info = i
				}
			}
			want := &errdetails.ErrorInfo{Domain: console.ErrorDomain, Reason: tc.reason, Metadata: tc.meta}
			if tc.reason == "" {
				want = nil
			}
			if diff := cmp.Diff(want, info, protocmp.Transform()); diff != "" {
				t.Errorf("ErrorInfo (-want +got):\n%s", diff)
			}
		})
	}
	f.Panic("Announce")
	if err := announce(); status.Code(err) != codes.Internal {
		t.Errorf("panic: %v", err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(reg, "trafficmonitor_console_requests_total"); err != nil || n < 7 {
		t.Errorf("%d series of requests, %v", n, err)
	}
}

func TestEveryReadMapsErrors(t *testing.T) {
	f := consoletest.New()
	c := serve(t, f, nil, nil)
	for method, call := range map[string]func(context.Context) error{
		"Status":      func(ctx context.Context) error { _, err := c.GetStatus(ctx, nil); return err },
		"Sensors":     func(ctx context.Context) error { _, err := c.ListSensors(ctx, nil); return err },
		"Peers":       func(ctx context.Context) error { _, err := c.ListPeers(ctx, nil); return err },
		"Incidents":   func(ctx context.Context) error { _, err := c.ListIncidents(ctx, nil); return err },
		"Mitigations": func(ctx context.Context) error { _, err := c.ListIncidents(ctx, nil); return err },
		"Explain": func(ctx context.Context) error {
			_, err := c.ExplainTarget(ctx, &tmv1.ExplainTargetRequest{Target: "203.0.113.5"})
			return err
		},
		"Events": func(ctx context.Context) error { _, err := c.ListEvents(ctx, nil); return err },
		"Holds":  func(ctx context.Context) error { _, err := c.ListHolds(ctx, nil); return err },
		"Routes": func(ctx context.Context) error { _, err := c.ListRoutes(ctx, nil); return err },
		"Policy": func(ctx context.Context) error { _, err := c.GetPolicy(ctx, nil); return err },
	} {
		f.Fail(method, console.ErrUnavailable{Reason: method + " is away"})
		if err := call(t.Context()); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), method+" is away") {
			t.Errorf("%s: %v", method, err)
		}
		f.Fail(method, nil)
	}
}

func TestPagesJoinToTheWhole(t *testing.T) {
	f := consoletest.New()
	f.MitigationList = nil
	for i := range 2500 {
		f.MitigationList = append(f.MitigationList, mitigation.Mitigation{
			ID: fmt.Sprintf("m-%d", i), State: mitigation.Active, Created: consoletest.Now.Add(time.Duration(i/3) * time.Second), // thrice the same time
		})
	}
	c := serve(t, f, nil, nil)
	for _, size := range []int32{0, 7, 1000} {
		seen := map[string]bool{}
		token, pages := "", 0
		for {
			r, err := c.ListMitigations(t.Context(), &tmv1.ListMitigationsRequest{PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			for i, m := range r.Mitigations {
				if seen[m.Id] {
					t.Fatalf("page size %d: %s came twice", size, m.Id)
				}
				seen[m.Id] = true
				if i > 0 && r.Mitigations[i-1].CreateTime.AsTime().Before(m.CreateTime.AsTime()) {
					t.Fatalf("page size %d: not newest first", size)
				}
			}
			pages++
			if token = r.NextPageToken; token == "" {
				break
			}
		}
		if len(seen) != 2500 {
			t.Errorf("page size %d: %d mitigations on %d pages, want 2500", size, len(seen), pages)
		}
	}
}
