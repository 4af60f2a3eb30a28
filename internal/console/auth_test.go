package console_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/console/consoletest"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// rpcCall calls one method with a valid request.
type rpcCall struct {
	name  string
	write bool
	call  func(context.Context, tmv1.ConsoleServiceClient) error
}

// rpcs calls every method of the ConsoleService.
var rpcs = []rpcCall{
	{"GetStatus", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.GetStatus(ctx, &tmv1.GetStatusRequest{})
		return err
	}},
	{"ListSensors", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ListSensors(ctx, &tmv1.ListSensorsRequest{})
		return err
	}},
	{"ListPeers", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ListPeers(ctx, &tmv1.ListPeersRequest{})
		return err
	}},
	{"ListIncidents", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ListIncidents(ctx, &tmv1.ListIncidentsRequest{})
		return err
	}},
	{"ExplainTarget", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ExplainTarget(ctx, &tmv1.ExplainTargetRequest{Target: "203.0.113.5"})
		return err
	}},
	{"ListMitigations", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ListMitigations(ctx, &tmv1.ListMitigationsRequest{})
		return err
	}},
	{"ListRoutes", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ListRoutes(ctx, &tmv1.ListRoutesRequest{})
		return err
	}},
	{"ListEvents", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ListEvents(ctx, &tmv1.ListEventsRequest{})
		return err
	}},
	{"ListHolds", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ListHolds(ctx, &tmv1.ListHoldsRequest{})
		return err
	}},
	{"GetPolicy", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.GetPolicy(ctx, &tmv1.GetPolicyRequest{})
		return err
	}},
	{"WatchEvents", false, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := c.WatchEvents(ctx, &tmv1.WatchEventsRequest{})
		if err != nil {
			return err
		}
		if md, err := w.Header(); err != nil || md == nil {
			_, err := w.Recv() // ended before its header: with which error?
			return err
		}
		return nil
	}},
	{"CreateMitigation", true, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.CreateMitigation(ctx, &tmv1.CreateMitigationRequest{
			Route: "destination 203.0.113.5 then discard", Ttl: durationpb.New(time.Minute), Reason: "r", Requester: "someone else",
		})
		return err
	}},
	{"ApproveMitigation", true, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ApproveMitigation(ctx, &tmv1.ApproveMitigationRequest{Id: "m-1", Reason: "r", Requester: "someone else"})
		return err
	}},
	{"RejectMitigation", true, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.RejectMitigation(ctx, &tmv1.RejectMitigationRequest{Id: "m-1", Reason: "r", Requester: "someone else"})
		return err
	}},
	{"ExtendMitigation", true, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ExtendMitigation(ctx, &tmv1.ExtendMitigationRequest{Id: "m-1", By: durationpb.New(time.Minute), Reason: "r", Requester: "someone else"})
		return err
	}},
	{"WithdrawMitigations", true, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.WithdrawMitigations(ctx, &tmv1.WithdrawMitigationsRequest{
			Selector: &tmv1.WithdrawMitigationsRequest_All{All: true}, Reason: "r", Requester: "someone else",
		})
		return err
	}},
	{"DeleteHold", true, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.DeleteHold(ctx, &tmv1.DeleteHoldRequest{Target: "203.0.113.0/28", Reason: "r", Requester: "someone else"})
		return err
	}},
	{"ReleaseQuarantine", true, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.ReleaseQuarantine(ctx, &tmv1.ConsoleServiceReleaseQuarantineRequest{Peer: "edge1", Reason: "r", Requester: "someone else"})
		return err
	}},
	{"SetFreeze", true, func(ctx context.Context, c tmv1.ConsoleServiceClient) error {
		_, err := c.SetFreeze(ctx, &tmv1.SetFreezeRequest{Frozen: true, Reason: "r", Requester: "someone else"})
		return err
	}},
}

func TestRPCsListsEveryMethod(t *testing.T) {
	var names []string
	for _, m := range tmv1.ConsoleService_ServiceDesc.Methods {
		names = append(names, m.MethodName)
	}
	for _, s := range tmv1.ConsoleService_ServiceDesc.Streams {
		names = append(names, s.StreamName)
	}
	for _, name := range names {
		if !slices.ContainsFunc(rpcs, func(r rpcCall) bool { return r.name == name }) {
			t.Errorf("%s is not in the matrix", name)
		}
	}
}

func TestAuthorisationMatrix(t *testing.T) {
	dir := t.TempDir()
	if err := pki.CreateCA(dir); err != nil {
		t.Fatal(err)
	}
	issue := func(role, name string, hosts ...string) pki.Files {
		f, err := pki.Issue(dir, role, name, hosts)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := consoletest.New()
	s, err := console.New(console.Options{
		System: f, TLS: issue(pki.RoleController, "controller-1", "127.0.0.1"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := rpc.Listen("127.0.0.1:0", true)
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := os.MkdirTemp("", "tm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(sockets)
	socket := "unix://" + filepath.Join(sockets, "c.sock")
	unix, err := rpc.Listen(socket, true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, tcp, unix) }()
	defer func() { cancel(); <-done }()

	for _, who := range []struct {
		name, address string
		files         pki.Files
		read, write   bool
		approved      bool
		requester     string
	}{
		{"viewer", tcp.Addr().String(), issue(pki.RoleViewer, "vera"), true, false, false, ""},
		{"operator", tcp.Addr().String(), issue(pki.RoleOperator, "otto"), true, true, false, "otto"},
		{"approver", tcp.Addr().String(), issue(pki.RoleApprover, "anna"), true, true, true, "anna"},
		{"sensor", tcp.Addr().String(), issue(pki.RoleSensor, "rack1"), false, false, false, ""},
		{"controller", tcp.Addr().String(), issue(pki.RoleController, "controller-2", "c2.example"), false, false, false, ""},
		{"unix", socket, pki.Files{}, true, true, true, "someone else (unix"},
	} {
		c, err := rpc.Dial(who.address, who.files)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		client := tmv1.NewConsoleServiceClient(c)
		for _, r := range rpcs {
			t.Run(who.name+"/"+r.name, func(t *testing.T) {
				f.Calls()
				err := r.call(t.Context(), client)
				may := who.read && !r.write || who.write && r.write
				if r.name == "ApproveMitigation" || r.name == "RejectMitigation" {
					may = who.approved
				}
				switch {
				case may && err != nil:
					t.Errorf("%v", err)
				case !may && status.Code(err) != codes.PermissionDenied:
					t.Errorf("%v, want PERMISSION_DENIED", err)
				}
				calls := f.Calls()
				if want := may && r.write; (len(calls) == 1) != want {
					t.Fatalf("the system was called: %+v, want a call: %v", calls, want)
				}
				for _, call := range calls {
					requester := ""
					switch call := call.(type) {
					case console.Announce:
						requester = call.Requester
						if call.Approved != who.approved {
							t.Errorf("approved %v, want %v", call.Approved, who.approved)
						}
					case console.Withdraw:
						requester = call.Requester
					case console.Answer:
						requester = call.Requester
					case console.DeleteHold:
						requester = call.Requester
					case console.ReleaseQuarantine:
						requester = call.Requester
					case console.SetFreeze:
						requester = call.Requester
					}
					if !strings.HasPrefix(requester, who.requester) {
						t.Errorf("requester %q, want %q", requester, who.requester)
					}
				}
			})
		}
	}
}
