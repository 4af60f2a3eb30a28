package console

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// Options of the console.
type Options struct {
	System System
	// TLS of its listeners; without it they are loopback and unix sockets only (rpc.Listen sees to that).
	TLS pki.Files
	// NotReady returns why the process is not ready, for the health service; nil means ready.
	NotReady   func() []string
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// maxRequest is the largest request taken, in octets; the largest legitimate one holds a route and a reason.
const maxRequest = 64 << 10

// New returns a server of the ConsoleService with everything an engineer's tools expect beside it. Call its Serve with
// listeners of rpc.Listen.
func New(o Options) (*rpc.Server, error) {
	m := newMetrics(o.Registerer)
	log := o.Log.With("component", "console")
	s, err := rpc.NewServer(rpc.Options{
		TLS: o.TLS, Roles: roles(), NotReady: o.NotReady, MaxMessage: maxRequest, Metrics: m.rpc(), Log: log,
	})
	if err != nil {
		return nil, err
	}
	tmv1.RegisterConsoleServiceServer(s, &service{system: o.System, log: log, metrics: m})
	return s, nil
}

// roles says who may call what. What an approver may beyond an operator, safety decides (Announce.Approved).
func roles() map[string][]string {
	read := []string{pki.RoleViewer, pki.RoleOperator, pki.RoleApprover}
	write := []string{pki.RoleOperator, pki.RoleApprover}
	return map[string][]string{
		tmv1.ConsoleService_GetStatus_FullMethodName:           read,
		tmv1.ConsoleService_ListSensors_FullMethodName:         read,
		tmv1.ConsoleService_ListPeers_FullMethodName:           read,
		tmv1.ConsoleService_ListIncidents_FullMethodName:       read,
		tmv1.ConsoleService_ExplainTarget_FullMethodName:       read,
		tmv1.ConsoleService_ListMitigations_FullMethodName:     read,
		tmv1.ConsoleService_ListRoutes_FullMethodName:          read,
		tmv1.ConsoleService_ListHolds_FullMethodName:           read,
		tmv1.ConsoleService_GetPolicy_FullMethodName:           read,
		tmv1.ConsoleService_ListEvents_FullMethodName:          read,
		tmv1.ConsoleService_WatchEvents_FullMethodName:         read,
		tmv1.ConsoleService_CreateMitigation_FullMethodName:    write,
		tmv1.ConsoleService_WithdrawMitigations_FullMethodName: write,
		tmv1.ConsoleService_ApproveMitigation_FullMethodName:   {pki.RoleApprover},
		tmv1.ConsoleService_RejectMitigation_FullMethodName:    {pki.RoleApprover},
		tmv1.ConsoleService_ExtendMitigation_FullMethodName:    write,
		tmv1.ConsoleService_DeleteHold_FullMethodName:          write,
		tmv1.ConsoleService_ReleaseQuarantine_FullMethodName:   write,
		tmv1.ConsoleService_SetFreeze_FullMethodName:           write,
	}
}

// service turns calls into calls of the system.
type service struct {
	tmv1.UnimplementedConsoleServiceServer
	system  System
	log     *slog.Logger
	metrics *metrics
}
