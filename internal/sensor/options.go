// Package sensor counts the packets of a rack in the kernel, raises triggers and streams what it counted to the
// controllers, which tell it what to watch.
package sensor

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
)

// Mode says how the sensor looks at an interface.
type Mode string

// The modes.
const (
	// Host counts at tcx ingress; every packet passes.
	Host Mode = "host"
	// Mirror counts in XDP and drops every packet, for a port that receives copies only.
	Mirror Mode = "mirror"
)

// Interface is one network interface to watch.
type Interface struct {
	Name string
	Mode Mode
	// Force uses Mirror although the interface has addresses, routes or a master.
	Force bool
	// Optional waits for an interface that is missing at the start, instead of ending.
	Optional bool
	// Outbound counts what leaves, too; in mode Host only, for both directions of a copy come in.
	Outbound bool
	// Hook is the place in mode Host; empty means HookAuto.
	Hook Hook
	// XDP is the kind of attachment in mode Mirror; empty means XDPAuto.
	XDP XDP
	// Replace takes the place of an XDP program, or of a clsact filter with our priority and handle, that is not ours.
	Replace bool
}

// Hook is where the kernel hands packets over in mode Host.
type Hook string

// The hooks.
const (
	HookAuto   Hook = "auto"   // tcx if the kernel has it, else clsact
	HookTCX    Hook = "tcx"    // Linux 6.6 and newer
	HookClsact Hook = "clsact" // a filter of the clsact queueing discipline
)

// XDP is where the kernel hands packets over in mode Mirror.
type XDP string

// The kinds of XDP.
const (
	XDPAuto    XDP = "auto"    // native if the driver can, else generic
	XDPNative  XDP = "native"  // inside the driver
	XDPGeneric XDP = "generic" // behind the driver, slower
)

// OnExit is what happens to programs and counters when the sensor is stopped.
type OnExit string

// What may happen.
const (
	Stay   OnExit = "stay"   // pinned ones go on counting for the next run
	Detach OnExit = "detach" // nothing is left behind
)

// Controller is where one controller takes sensors.
type Controller struct {
	// Address is host:port or unix:///path.
	Address string
	// TLS is this sensor's identity and whom it trusts; nil for loopback and unix sockets.
	TLS *tls.Config
}

// Options configure a sensor. Zero values of the sizes and times take the defaults.
type Options struct {
	Name        string
	Version     string
	Interfaces  []Interface
	Controllers []Controller

	// Slots is the number of hosts counted one by one; what finds no slot is counted for its prefix.
	Slots int
	// Prefixes is the number of protected prefixes there is room for.
	Prefixes int
	// Networks4 is the number of IPv4 /24 networks that protected prefixes may hold.
	Networks4 int
	// Networks6 is the number of IPv6 /64 networks counted one by one, besides prefixes; what finds no room is counted for
	// its prefix, and so are its hosts.
	Networks6 int
	// CutMirrors says that mirrors cut frames short, so that their length fields are to be believed.
	CutMirrors bool
	// Decapsulate is the tunnels whose inner packets are counted instead of the outer ones.
	Decapsulate classify.Tunnels
	// Backlog is the number of messages kept for each controller while it does not take them.
	Backlog int
	// IdleAfter is the silence after which a host gives its slot back.
	IdleAfter time.Duration
	// Pin is a directory of a bpf file system in which programs and counters outlive this process; empty for none.
	Pin string
	// OnExit is what happens to them when Run ends; empty means Stay.
	OnExit OnExit
	// Checkpoint is a file, in memory best, that notes how far reports have come, so that one that adopts pinned counters
	// goes on there; empty for none.
	Checkpoint string
	// StateFile keeps the last directive, so that a restarted sensor watches at once; empty keeps none.
	StateFile string
	// Budget is the CPU time the process may take; above it, less is sampled. Shares that are not positive are no limit.
	Budget Budget
	// DropCapabilities gives up, once all is attached, the privileges of the whole process that are not needed to attach anew.
	DropCapabilities bool

	// Watching is called once, when the programs count and privileges are dropped; an error ends the sensor. May be nil.
	Watching func() error
	// Alive is called by the loop that counts and reports, at least every second; Status is what it does in words. May be nil.
	Alive  func(now time.Time)
	Status func(words string)

	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Ready is told what keeps a component from being ready; an empty reason means that it is. May be nil.
	Ready func(component, reason string)
}

func (o *Options) check() error {
	var errs []error
	if o.Name == "" || len(o.Name) > 128 {
		errs = append(errs, errors.New("a sensor needs a name of 1 to 128 characters"))
	}
	if len(o.Interfaces) == 0 {
		errs = append(errs, errors.New("no interface to watch: name at least one"))
	}
	if len(o.Controllers) == 0 {
		errs = append(errs, errors.New("no controller to report to: name at least one"))
	}
	for _, i := range o.Interfaces {
		if i.Mode != Host && i.Mode != Mirror {
			errs = append(errs, fmt.Errorf("interface %s: mode %q is neither %q nor %q", i.Name, i.Mode, Host, Mirror))
		}
	}
	for _, i := range o.Interfaces {
		if !slices.Contains([]Hook{"", HookAuto, HookTCX, HookClsact}, i.Hook) || !slices.Contains([]XDP{"", XDPAuto, XDPNative, XDPGeneric}, i.XDP) {
			errs = append(errs, fmt.Errorf("interface %s: there is no hook %q, or no xdp %q", i.Name, i.Hook, i.XDP))
		}
	}
	if !slices.Contains([]OnExit{"", Stay, Detach}, o.OnExit) {
		errs = append(errs, fmt.Errorf("on_exit %q is neither %q nor %q", o.OnExit, Stay, Detach))
	}
	def := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}
	def(&o.Slots, 4096)
	def(&o.Prefixes, 512)
	def(&o.Networks4, 4096)
	def(&o.Networks6, 1024)
	def(&o.Backlog, 256)
	if o.IdleAfter == 0 {
		o.IdleAfter = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Watching == nil {
		o.Watching = func() error { return nil }
	}
	if o.Alive == nil {
		o.Alive = func(time.Time) {}
	}
	if o.Status == nil {
		o.Status = func(string) {}
	}
	if o.Ready == nil {
		o.Ready = func(string, string) {}
	}
	return errors.Join(errs...)
}

// Check says what is wrong with o without touching the system.
func Check(o Options) error { return o.check() }

// outbound tells whether anything that leaves is to be counted.
func outbound(interfaces []Interface) bool {
	return slices.ContainsFunc(interfaces, func(i Interface) bool { return i.Mode == Host && i.Outbound })
}
