package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
)

// Sensor is the configuration of a sensor: what a rack has to know by itself. All else it is told by the controllers.
type Sensor struct {
	Name        string
	Controllers []ControllerAddress
	TLS         TLS
	Interfaces  []Interface
	Slots       int
	Prefixes    int
	Networks4   int
	Networks6   int
	CutMirrors  bool
	Decapsulate []string // names of classify.TunnelNames
	IdleAfter   time.Duration
	Backlog     int
	StateFile   string // path; empty keeps no state
	Pin         string // directory of bpffs below which the sensor's own is; empty pins nothing
	Checkpoint  string // path; empty keeps none
	OnExit      string
	CPU         CPUBudget
	MemoryLimit int64 // bytes of Go's runtime
	DropCaps    bool
	Telemetry   Address
	Log         Log
	Pprof       bool
}

// CPUBudget is how much of one core the process of a sensor may use, as fractions.
type CPUBudget struct {
	Rest float64 // while no target is over its trigger
	Most float64 // always
}

// ControllerAddress is where one controller takes sensors.
type ControllerAddress struct {
	Address Address
	// ServerName is the name its certificate must hold; empty means the host of the address.
	ServerName string
}

// How a sensor looks at an interface.
const (
	ModeHost   = "host"   // tcx ingress; every packet passes
	ModeMirror = "mirror" // XDP on a dedicated mirror port; copies are counted and dropped
)

// What happens to programs and counters when a sensor is stopped.
const (
	OnExitStay   = "stay"
	OnExitDetach = "detach"
)

// Interface is one network interface a sensor watches.
type Interface struct {
	Name     string
	Mode     string
	Hook     string
	XDP      string
	Outbound bool
	Force    bool
	Replace  bool
	Optional bool
}

// DefaultSensor returns what is in force where the file says nothing.
func DefaultSensor() Sensor {
	return Sensor{
		Name:       hostname(),
		Slots:      4096,
		Prefixes:   512,
		Networks4:  4096,
		Networks6:  1024,
		IdleAfter:  time.Minute,
		Backlog:    256,
		StateFile:  "/var/lib/trafficmonitor/sensor.state",
		Pin:        "/sys/fs/bpf/trafficmonitor",
		Checkpoint: "/run/trafficmonitor/sensor.checkpoint",
		OnExit:     OnExitStay,
		CPU:        CPUBudget{Rest: 0.02, Most: 0.25}, MemoryLimit: 64 << 20, DropCaps: true,
		Telemetry: Address{Host: "127.0.0.1", Port: 7445},
		Log:       Log{Level: "info", Format: "text"},
	}
}

// schema is sensor.yaml: every key, what it may hold and what it means.
func (s *Sensor) schema() document.Value {
	return document.Section(
		document.Field{
			Key: "name", Value: document.Scalar(&s.Name, document.Word()),
			Help: "Name of this sensor, unlike that of any other; with tls the common name of its certificate.",
		},
		document.Field{
			Key: "controllers", Required: true, Help: "Every controller; the sensor streams to all of them.",
			Value: document.List(&s.Controllers, nil, func(c *ControllerAddress) document.Value {
				return document.Section(
					document.Field{Key: "address", Value: document.Scalar(&c.Address, addressCodec(forDialling)), Required: true, Help: "Where the controller takes sensors: its listen.sensors.", Danger: "Other than loopback it needs tls."},
					document.Field{Key: "server_name", Value: document.Scalar(&c.ServerName, document.OrEmpty(hostCodec())), Help: "The name the controller's certificate must hold; empty means the host of the address."},
				)
			}),
		},
		document.Field{Key: "tls", Value: tlsFields(&s.TLS), Help: "Identity of this sensor towards controllers."},
		document.Field{
			Key: "interfaces", Required: true, Help: "The interfaces whose packets are counted.",
			Value: document.List(&s.Interfaces, func() Interface {
				return Interface{Mode: ModeHost, Hook: "auto", XDP: "auto", Outbound: true}
			}, func(i *Interface) document.Value {
				return document.Section(
					document.Field{Key: "name", Value: document.Scalar(&i.Name, interfaceCodec()), Required: true, Help: "Name of the interface."},
					document.Field{Key: "mode", Value: document.Scalar(&i.Mode, document.OneOf(ModeHost, ModeMirror)), Help: "host counts at tcx ingress and passes every packet; mirror counts in XDP and drops every packet, for a port that receives copies only.", Danger: "mirror on an interface that carries traffic cuts it off; it is refused on one with addresses, routes, a master, or VLANs on it."},
					document.Field{Key: "hook", Value: document.Scalar(&i.Hook, document.OneOf("auto", "tcx", "clsact")), Help: "Where mode host sees packets: auto takes tcx from Linux 6.6 on, before that a filter of the clsact queueing discipline."},
					document.Field{Key: "xdp", Value: document.Scalar(&i.XDP, document.OneOf("auto", "native", "generic")), Help: "Where mode mirror sees packets: native is inside the driver, generic behind it and slower; auto takes native if the driver has it."},
					document.Field{Key: "outbound", Value: document.Scalar(&i.Outbound, document.Bool()), Help: "Also count what leaves through the interface, for its source. Only mode host can: of a mirror both directions come in."},
					document.Field{Key: "force", Value: document.Scalar(&i.Force, document.Bool()), Help: "Use mirror although the interface has addresses, routes, a master, or VLANs on it.", Danger: "All traffic to the interface is dropped."},
					document.Field{Key: "replace", Value: document.Scalar(&i.Replace, document.Bool()), Help: "Take the place of an XDP program, or of a clsact filter with priority 1 and handle 0x746d, that is not the sensor's.", Danger: "What that program did is done no more. Without it the sensor refuses."},
					document.Field{Key: "optional", Value: document.Scalar(&i.Optional, document.Bool()), Help: "Wait for the interface when it is missing at the start, instead of ending; later every interface is waited for.", Danger: "A typing error in the name then only shows in readiness."},
				)
			}),
		},
		document.Field{
			Key: "slots", Value: document.Scalar(&s.Slots, document.Number(64, 1<<20)),
			Help:   "Hosts that can be counted one by one; what does not find a slot is counted for its prefix. Memory is fixed at the start, and printed.",
			Danger: "Every slot costs memory, about 1 kB and with outbound 2, whether it is used or not.",
		},
		document.Field{
			Key: "prefixes", Value: document.Scalar(&s.Prefixes, document.Number(1, 1<<16)),
			Help: "Protected prefixes there is room for; a directive with more is refused.",
		},
		document.Field{
			Key: "networks4", Value: document.Scalar(&s.Networks4, document.Number(1, 1<<20)),
			Help: "IPv4 /24 networks that protected prefixes may hold; a directive with more is refused.",
		},
		document.Field{
			Key: "networks6", Value: document.Scalar(&s.Networks6, document.Number(1, 1<<20)),
			Help: "IPv6 /64 networks with traffic that can be counted one by one; a host gets a slot only where its /64 has a place, all else is counted for the prefix.",
		},
		document.Field{
			Key: "cut_mirrors", Value: document.Scalar(&s.CutMirrors, document.Bool()),
			Help: "Mirrors cut frames short, so the length fields of packets are believed instead of the frames' length.", Danger: "An attacker writes those fields; set it only where frames are cut.",
		},
		document.Field{
			Key: "decapsulate", Value: document.List(&s.Decapsulate, nil, func(name *string) document.Value {
				return document.Scalar(name, document.OneOf(classify.TunnelNames...))
			}),
			Help:   "Tunnels of which the inner packet is counted instead of the outer one, one level deep: those of a cloud's overlay.",
			Danger: "Who can send such a packet to anyone here chooses whom it is counted for; use it where the network lets tunnels in from itself only.",
		},
		document.Field{
			Key: "idle_after", Value: document.Scalar(&s.IdleAfter, document.Duration(time.Second, time.Hour)),
			Help: "Silence after which a host gives its slot back.",
		},
		document.Field{
			Key: "backlog", Value: document.Scalar(&s.Backlog, document.Number(1, 65536)),
			Help: "Messages kept per controller while it does not take them; the least worth go first.",
		},
		document.Field{
			Key: "state_file", Value: document.Scalar(&s.StateFile, document.OrEmpty(pathCodec())),
			Help: "File with the last directive, so that a restarted sensor watches before a controller answers; empty keeps none.",
		},
		document.Field{Key: "cpu", Help: "How much CPU time the sensor's process may take. When it takes more it samples less, and says so; counting and triggers go on.", Value: document.Section(
			document.Field{Key: "rest", Value: document.Scalar(&s.CPU.Rest, document.Percent(0.001, 1)), Help: "Share of one core while no target is over its trigger."},
			document.Field{Key: "most", Value: document.Scalar(&s.CPU.Most, document.Percent(0.001, 4)), Help: "Share of one core while targets are."},
		)},
		document.Field{
			Key: "memory_limit", Value: document.Scalar(&s.MemoryLimit, document.Size(24<<20, 16<<30)),
			Help:   "Memory of the process that makes it collect garbage more often rather than take more; the kernel's maps come on top and are fixed.",
			Danger: "Less than it needs costs CPU time; the log warns at the start.",
		},
		document.Field{
			Key: "drop_capabilities", Value: document.Scalar(&s.DropCaps, document.Bool()),
			Help:   "Give up all privileges after the start but those that attaching to an interface anew needs.",
			Danger: "With false, who breaks into the process has all it was started with.",
		},
		document.Field{
			Key: "pin", Value: document.Scalar(&s.Pin, document.OrEmpty(pathCodec())),
			Help:   "Directory of a bpf file system; below it the sensor makes one of its name, in which programs and counters outlive the process: a restart, an upgrade or a crash loses no packet and no count. Empty pins nothing.",
			Danger: "Without a bpf file system there the sensor says so and runs unpinned. Programs stay after the sensor ends, see on_exit; sensor detach removes them.",
		},
		document.Field{
			Key: "checkpoint", Value: document.Scalar(&s.Checkpoint, document.OrEmpty(pathCodec())),
			Help:   "File, best in memory as /run is, that says how far reports have come, written with each interval report. With pin the next process reports from there what was counted meanwhile, up to 4 minutes. Empty: what is counted between two processes is in the totals only.",
			Danger: "Two sensors must not share it.",
		},
		document.Field{
			Key: "on_exit", Value: document.Scalar(&s.OnExit, document.OneOf(OnExitStay, OnExitDetach)),
			Help: "When the sensor is stopped: stay leaves what is pinned counting for the next start, detach removes it all.",
		},
		document.Field{Key: "listen", Help: "Where this sensor is reached.", Value: document.Section(
			document.Field{Key: "telemetry", Value: document.Scalar(&s.Telemetry, document.OrEmpty(addressCodec(forMetrics))), Help: "For Prometheus and health checks: /metrics, /healthz, /readyz, HTTP; empty means none.", Danger: "Other than loopback it needs tls to be configured, though it is always plain HTTP."},
		)},
		document.Field{Key: "log", Help: "What is logged, to standard error.", Value: logFields(&s.Log)},
		document.Field{
			Key: "pprof", Value: document.Scalar(&s.Pprof, document.Bool()),
			Help:   "Also serve /debug/pprof on listen.telemetry.",
			Danger: "Who reaches that address can then read memory and slow the process down.",
		},
	)
}

// interfaceCodec follows the kernel's dev_valid_name.
func interfaceCodec() document.Codec[string] {
	return document.Codec[string]{
		Type: "name of an interface",
		Parse: func(s string) (string, error) {
			if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '/' || c == ':' }) {
				return "", document.Wrong("", "%q is not the name of an interface: 1 to 15 characters without spaces, slashes and colons", s)
			}
			return s, nil
		},
		Format: func(s string) string { return s },
	}
}

func hostCodec() document.Codec[string] {
	return document.Codec[string]{
		Type: "name of a host",
		Parse: func(s string) (string, error) {
			if _, err := netip.ParseAddr(s); err != nil && !isHostname(s) {
				return "", document.Wrong("", "%q is neither the name of a host nor an address", s)
			}
			return s, nil
		},
		Format: func(s string) string { return s },
	}
}

func (s *Sensor) resolve(dir string) {
	absolute(dir, &s.StateFile, &s.Pin, &s.Checkpoint, &s.TLS.CA, &s.TLS.Cert, &s.TLS.Key)
}

// check reports what is well written and makes no sense, or is dangerous.
func (s *Sensor) check(r *document.Report) {
	if s.Name == "" {
		r.Add("name", "is missing, and this host has no name that could stand in: write one")
	}
	checkTLS(r, "tls", s.TLS)
	checkListen(r, "listen.telemetry", s.Telemetry, s.TLS)
	if len(s.Controllers) == 0 {
		r.Add("controllers", "is empty: name every controller; a sensor that reports to nobody is of no use")
	}
	seen := map[Address]int{}
	for i, c := range s.Controllers {
		at := fmt.Sprintf("controllers[%d]", i)
		switch j, ok := seen[c.Address]; {
		case c.Address == Address{}: // reported when it was read
		case ok:
			r.Add(at+".address", "%s is the address of controllers[%d] already", c.Address, j)
		case !c.Address.IsLocal() && !s.TLS.Enabled():
			r.Add(at+".address", "%s is on another machine, and there are no certificates: set tls.ca, tls.cert and tls.key (tmctl pki makes them for a start)", c.Address)
		}
		seen[c.Address] = i
		if c.ServerName != "" && !s.TLS.Enabled() {
			r.Add(at+".server_name", "means nothing without tls")
		}
	}
	if s.CPU.Rest > s.CPU.Most {
		r.Add("cpu.rest", "is more than cpu.most: what is allowed at rest must be allowed always")
	}
	if len(s.Interfaces) == 0 {
		r.Add("interfaces", "is empty: name the interfaces whose packets are to be counted")
	}
	tunnels := map[string]int{}
	for i, name := range s.Decapsulate {
		if j, ok := tunnels[name]; ok {
			r.Add(fmt.Sprintf("decapsulate[%d]", i), "%s is decapsulate[%d] already", name, j)
		}
		tunnels[name] = i
	}
	names := map[string]int{}
	for i, f := range s.Interfaces {
		at := fmt.Sprintf("interfaces[%d]", i)
		if j, ok := names[f.Name]; ok && f.Name != "" {
			r.Add(at+".name", "%s is interfaces[%d] already", f.Name, j)
		}
		names[f.Name] = i
		if f.Force && f.Mode != ModeMirror {
			r.Add(at+".force", "means nothing with mode %s, which drops no packet", f.Mode)
		}
		if f.XDP != "auto" && f.Mode != ModeMirror {
			r.Add(at+".xdp", "means nothing with mode %s", f.Mode)
		}
		if f.Hook != "auto" && f.Mode != ModeHost {
			r.Add(at+".hook", "means nothing with mode %s", f.Mode)
		}
	}
}
