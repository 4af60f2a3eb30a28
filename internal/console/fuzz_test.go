package console_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/console/consoletest"
)

// FuzzHandlers sends arbitrary bytes as requests of every unary method. Whatever comes, there is no panic, the answer is
// an answer or an error that blames the request, and the system is asked only for what makes sense.
func FuzzHandlers(f *testing.F) {
	fake := consoletest.New()
	conn := serveConn(f, fake)
	methods := tmv1.ConsoleService_ServiceDesc.Methods
	seed := func(method string, m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		for i, d := range methods {
			if d.MethodName == method {
				f.Add(uint8(i), b)
			}
		}
	}
	seed("CreateMitigation", &tmv1.CreateMitigationRequest{
		Route: "destination 203.0.113.5 protocol udp source-port 53 then rate-limit 1Mbps", Ttl: durationpb.New(1e9), Reason: "r", RequestId: "i", Requester: "e", ValidateOnly: true,
	})
	seed("WithdrawMitigations", &tmv1.WithdrawMitigationsRequest{
		Selector: &tmv1.WithdrawMitigationsRequest_Target{Target: "2001:db8::/32"}, Reason: "r", Hold: durationpb.New(1), Requester: "e",
	})
	seed("WithdrawMitigations", &tmv1.WithdrawMitigationsRequest{Selector: &tmv1.WithdrawMitigationsRequest_Id{Id: "m-1"}, Reason: "r", Requester: "e"})
	seed("DeleteHold", &tmv1.DeleteHoldRequest{Target: "203.0.113.0/28", Reason: "r", Requester: "e"})
	seed("SetFreeze", &tmv1.SetFreezeRequest{Frozen: true, Reason: "r", Requester: "e"})
	seed("ListIncidents", &tmv1.ListIncidentsRequest{PageSize: 1, PageToken: "ZGVmLmk"})
	seed("ListMitigations", &tmv1.ListMitigationsRequest{PageSize: 1000, IncludeEnded: true})
	seed("GetStatus", &tmv1.GetStatusRequest{})

	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		if len(body) > 60<<10 {
			t.Skip()
		}
		method := methods[int(n)%len(methods)].MethodName
		var answer []byte
		err := conn.Invoke(t.Context(), "/"+tmv1.ConsoleService_ServiceDesc.ServiceName+"/"+method, &body, &answer, grpc.ForceCodec(rawCodec{}))
		switch status.Code(err) {
		case codes.OK, codes.InvalidArgument, codes.NotFound:
		case codes.Internal:
			if proto.Unmarshal(body, request(method)) == nil {
				t.Errorf("%s blames itself: %v", method, err)
			}
		default:
			t.Errorf("%s: %v", method, err)
		}
		for _, call := range fake.Calls() {
			switch c := call.(type) {
			case console.Announce:
				if verr := c.Route.Validate(); verr != nil || c.TTL <= 0 || c.Reason == "" || c.Requester == "" {
					t.Errorf("the system was asked for %+v (%v)", c, verr)
				}
			case console.Withdraw:
				selectors := 0
				for _, set := range []bool{c.ID != "", c.Target.IsValid(), c.All} {
					if set {
						selectors++
					}
				}
				if selectors != 1 || c.Reason == "" || c.Requester == "" || c.Hold != nil && *c.Hold < 0 {
					t.Errorf("the system was asked for %+v", c)
				}
			case console.DeleteHold:
				if !c.Target.IsValid() || c.Target != c.Target.Masked() || c.Reason == "" || c.Requester == "" {
					t.Errorf("the system was asked for %+v", c)
				}
			case console.SetFreeze:
				if c.Reason == "" || c.Requester == "" {
					t.Errorf("the system was asked for %+v", c)
				}
			}
		}
	})
}

// rawCodec passes bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (rawCodec) Name() string { return "proto" }

// request returns an empty request of a method.
func request(method string) proto.Message {
	d := tmv1.File_trafficmonitor_v1_console_proto.Services().ByName("ConsoleService").Methods()
	for i := range d.Len() {
		if string(d.Get(i).Name()) == method {
			return dynamicpb.NewMessage(d.Get(i).Input())
		}
	}
	return nil
}
