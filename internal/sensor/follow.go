package sensor

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

const (
	// retryInterface is how often an interface in trouble is tried again.
	retryInterface = 5 * time.Second
	// checkInterface is how often interfaces are looked at though the kernel said nothing: others may take a program away.
	checkInterface = 30 * time.Second
)

// doors are the configured interfaces and what we have at each. It is used by one goroutine, in whose network namespace
// they lie.
type doors struct {
	attacher *attacher
	list     []*door
	metrics  doorMetrics
	ready    func(component, reason string)
	log      *slog.Logger
	next     time.Time // when to look without having been told
	changed  chan struct{}
	events   *linkEvents
	state    atomic.Pointer[[]*pb.Interface] // for other goroutines
}

type door struct {
	Interface
	attachment *attachment // nil while it is not watched
	trouble    string      // why not
	was        bool        // it was watched before
	down       bool        // it is there, and no packet can come in
	others     []string    // sensors of other names that have programs there
	above      string      // watched, too, and its packets come through this one
	ahead      int         // programs of others in front of ours
}

type doorMetrics struct {
	attached, hooks, up, others, ahead *prometheus.GaugeVec
	changes                            *prometheus.CounterVec
}

func newDoorMetrics(reg prometheus.Registerer) doorMetrics {
	m := doorMetrics{
		attached: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_interface_attached", Help: "1 while the configured interface is watched.",
		}, []string{"interface", "mode"}),
		hooks: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_interface_hook_info",
			Help: "How the interface is watched: tcx, clsact, xdp-native or xdp-generic, and whether outgoing packets are counted.",
		}, []string{"interface", "hook", "outbound"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_interface_up",
			Help: "1 while the interface is up and has a carrier, 0 while no packet can come in; absent while there is no such interface.",
		}, []string{"interface"}),
		others: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_interface_others",
			Help: "Sensors of other names that have programs pinned at the interface, whether they run or not.",
		}, []string{"interface"}),
		ahead: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_interface_programs_ahead",
			Help: "Programs of others in front of ours at tcx of the interface: what they drop or redirect is not counted.",
		}, []string{"interface"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_sensor_interface_changes_total",
			Help: "Times the interface was attached, adopted from an earlier process, reattached, lost, refused, or went down.",
		}, []string{"interface", "change"}),
	}
	reg.MustRegister(m.attached, m.hooks, m.up, m.others, m.ahead, m.changes)
	return m
}

func newDoors(a *attacher, interfaces []Interface, reg prometheus.Registerer, ready func(string, string), log *slog.Logger) *doors {
	d := &doors{attacher: a, metrics: newDoorMetrics(reg), ready: ready, log: log, changed: make(chan struct{}, 1)}
	for _, i := range interfaces {
		d.list = append(d.list, &door{Interface: i})
	}
	d.publish()
	return d
}

// open attaches to every interface there is. What is missing or fails ends a sensor that is starting, unless it is
// optional and missing.
func (d *doors) open(now time.Time) error {
	if err := d.attacher.sweep(interfacesOf(d.list)); err != nil {
		d.log.Warn("not all that an earlier run left could be removed", "err", err)
	}
	// Before the first look, so that nothing is missed in between.
	if err := d.subscribe(); err != nil {
		return err
	}
	for _, x := range d.list {
		switch err := d.check(x); {
		case err == nil:
		case !errors.Is(err, errNoInterface) || !x.Optional:
			return whichThereAre(err)
		}
	}
	d.after(now)
	return nil
}

// whichThereAre adds to the error of a missing interface what could have been meant.
func whichThereAre(err error) error {
	if !errors.Is(err, errNoInterface) {
		return err
	}
	return fmt.Errorf("%w; there are %s. Correct the name, or set optional for an interface that appears later", err, interfaceNames())
}

// interfaceNames are those there are now, as far as they can be asked for.
func interfaceNames() string {
	links, _ := netlink.LinkList() // what was read of an interrupted list is of use, too
	const enough = 20
	var names []string
	for _, l := range links[:min(len(links), enough)] {
		names = append(names, l.Attrs().Name)
	}
	if more := len(links) - enough; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}

func interfacesOf(list []*door) []Interface {
	out := make([]Interface, 0, len(list))
	for _, x := range list {
		out = append(out, x.Interface)
	}
	return out
}

// look brings every interface to where it should be. Trouble with one is shown, and tried again; it never ends a sensor
// that watches others.
func (d *doors) look(now time.Time) {
	if d.events.broken() {
		if err := d.subscribe(); err != nil {
			d.log.Warn("the kernel does not tell of interfaces; they are looked at now and then", "err", err)
		}
	}
	for _, x := range d.list {
		_ = d.check(x) // shown by check
	}
	d.after(now)
}

func (d *doors) after(now time.Time) {
	d.twice()
	d.order()
	d.publish()
	d.next = now.Add(checkInterface)
	for _, x := range d.list {
		if x.attachment == nil && x.trouble != errNoInterface.Error() || d.events.broken() {
			d.next = now.Add(retryInterface)
		}
	}
}

// check attaches to an interface that appeared or came back, and lets go of one that went.
func (d *doors) check(x *door) error {
	l, err := find(x.Name)
	if err != nil {
		if x.attachment != nil && !errors.Is(err, errNoInterface) {
			d.log.Warn("interface cannot be looked at; it stays watched", "interface", x.Name, "err", err)
			return err
		}
		if errors.Is(err, errNoInterface) {
			x.down = false
			d.metrics.up.DeleteLabelValues(x.Name)
			d.metrics.others.DeleteLabelValues(x.Name)
		}
		d.lost(x, err)
		return err
	}
	d.carrier(x, l)
	d.company(x, l)
	if x.attachment != nil {
		if x.attachment.index == l.Attrs().Index && x.attachment.alive() {
			if x.Mode != Mirror {
				return nil
			}
			if x.Force {
				return d.promiscuous(x, l)
			}
			if err := stillMirror(l); err != nil {
				d.lost(x, err)
				return err
			}
			return d.promiscuous(x, l)
		}
		why := errors.New("it is another interface now")
		if x.attachment.index == l.Attrs().Index {
			why = errors.New("someone took the program away")
		}
		d.lost(x, why)
	}
	a, err := d.attacher.attach(x.Interface)
	if err != nil {
		d.trouble(x, err)
		return err
	}
	change := "attached"
	switch {
	case a.adopted:
		change = "adopted"
	case x.was:
		change = "reattached"
	}
	x.attachment, x.trouble, x.was = a, "", true
	d.metrics.attached.WithLabelValues(x.Name, string(x.Mode)).Set(1)
	d.metrics.hooks.WithLabelValues(x.Name, hookName(a.kind), outboundName(a.outbound)).Set(1)
	d.metrics.changes.WithLabelValues(x.Name, change).Inc()
	d.ready("interface "+x.Name, "")
	d.log.Info("interface watched", "interface", x.Name, "mode", x.Mode, "hook", hookName(a.kind), "outbound", a.outbound, "change", change)
	return nil
}

// carrier says whether packets can come in. It stays attached to an interface that is down: that is no trouble of ours.
func (d *doors) carrier(x *door, l netlink.Link) {
	const both = unix.IFF_UP | unix.IFF_RUNNING
	down := l.Attrs().RawFlags&both != both
	if down == x.down && x.attachment != nil {
		return
	}
	up := 1.0
	if down {
		up = 0
	}
	d.metrics.up.WithLabelValues(x.Name).Set(up)
	switch {
	case down && !x.down:
		d.metrics.changes.WithLabelValues(x.Name, "down").Inc()
		d.log.Warn("interface is down or has no carrier: nothing comes in through it", "interface", x.Name)
	case x.down && !down:
		d.log.Info("interface is up", "interface", x.Name)
	}
	x.down = down
}

// company says who else has programs there. They are left alone: whose they are is not ours to know.
func (d *doors) company(x *door, l netlink.Link) {
	others := d.attacher.pins.others(l.Attrs().Index, d.attacher.netns)
	d.metrics.others.WithLabelValues(x.Name).Set(float64(len(others)))
	if len(others) > 0 && !slices.Equal(others, x.others) {
		d.log.Warn("another sensor has programs at the interface: if it runs, each packet is reported twice; if not, they cost for nothing",
			"interface", x.Name, "others", strings.Join(others, " "), "remedy", "stop that one, and run sensor detach with its name in the configuration")
	}
	x.others = others
}

// twice says which watched interfaces have the packets of another one once more: a bridge or bond those of its port, a VLAN
// those of what it lies on.
func (d *doors) twice() {
	links := map[int]netlink.Link{}
	find := func(index int) netlink.Link {
		l, asked := links[index]
		if !asked {
			if got, err := netlink.LinkByIndex(index); err == nil {
				l = got
			}
			links[index] = l
		}
		return l
	}
	for _, x := range d.list {
		above := ""
		for _, y := range d.list {
			// What comes in through a mirror port ends there.
			if x == y || x.attachment == nil || y.attachment == nil || x.Mode == Mirror {
				continue
			}
			if goesOnThrough(x.attachment.index, y.attachment.index, find) {
				above = y.Name
			}
		}
		if above == x.above {
			continue
		}
		x.above = above
		reason := ""
		if above != "" {
			reason = fmt.Sprintf("they come through %s as well, which is watched, too: each is counted twice, and limits are passed at half the rate; watch one of the two", above)
			d.log.Error("packets are counted twice", "interface", x.Name, "others", above, "remedy", "take one of the two out of interfaces")
		}
		d.ready("packets of "+x.Name, reason)
	}
}

// goesOnThrough tells whether packets that come in through one interface come in through another one afterwards, also when
// that is a VLAN of the bond whose port the first is. Find returns nil for an interface there is not.
func goesOnThrough(from, to int, find func(index int) netlink.Link) bool {
	const deep = 8 // and no circle
	masters := []int{from}
	for l := find(from); l != nil && l.Attrs().MasterIndex != 0 && len(masters) < deep; {
		l = find(l.Attrs().MasterIndex)
		// A VRF takes over the route, and Open vSwitch the frame: nothing comes in through their interfaces.
		if l == nil || l.Type() == "vrf" || l.Type() == "openvswitch" {
			break
		}
		masters = append(masters, l.Attrs().Index)
	}
	for n := 0; n < deep; n++ {
		if slices.Contains(masters, to) {
			return true
		}
		l := find(to)
		// The frames below MACsec are encrypted, and count for nobody.
		if l == nil || !liesOn(l, l.Attrs().ParentIndex) || l.Type() == "macsec" {
			return false
		}
		to = l.Attrs().ParentIndex
	}
	return false
}

// order says where programs of others came to stand in front of ours.
func (d *doors) order() {
	for _, x := range d.list {
		if x.attachment == nil {
			d.metrics.ahead.DeleteLabelValues(x.Name)
			x.ahead = 0
			continue
		}
		n := d.attacher.ahead(x.attachment)
		d.metrics.ahead.WithLabelValues(x.Name).Set(float64(n))
		if n > x.ahead {
			d.log.Warn("programs of others were attached in front of ours: what they drop or redirect is not counted", "interface", x.Name, "programs", n,
				"remedy", "restart the sensor after detaching it (sensor detach), with hook auto, or have them attach behind it")
		}
		x.ahead = n
	}
}

// promiscuous makes a mirror port so again if somebody ended that, for it would take hardly any copy.
func (d *doors) promiscuous(x *door, l netlink.Link) error {
	if l.Attrs().RawFlags&unix.IFF_PROMISC != 0 || d.attacher.pins.Pins == nil { // without pins a socket sees to it
		return nil
	}
	if _, err := makePromiscuous(d.attacher.pins, l, d.attacher.netns); err != nil {
		d.log.Error("mirror port is no longer promiscuous and takes few copies", "interface", x.Name, "err", err)
		return err
	}
	d.log.Warn("mirror port was no longer promiscuous, and is again", "interface", x.Name)
	return nil
}

// lost lets go of an interface that went away.
func (d *doors) lost(x *door, why error) {
	if x.attachment != nil {
		if err := x.attachment.remove(); err != nil {
			d.log.Warn("what was at a lost interface could not be removed", "interface", x.Name, "err", err)
		}
		x.attachment = nil
		d.metrics.changes.WithLabelValues(x.Name, "lost").Inc()
		d.log.Warn("interface lost", "interface", x.Name, "mode", x.Mode, "reason", why)
		x.trouble = ""
	}
	d.trouble(x, why)
}

func (d *doors) trouble(x *door, err error) {
	d.metrics.attached.WithLabelValues(x.Name, string(x.Mode)).Set(0)
	d.metrics.hooks.DeletePartialMatch(map[string]string{"interface": x.Name})
	reason := err.Error()
	if errors.Is(err, errNoInterface) {
		reason = errNoInterface.Error()
	}
	if x.trouble == reason {
		return
	}
	x.trouble = reason
	d.ready("interface "+x.Name, reason)
	if !errors.Is(err, errNoInterface) {
		d.metrics.changes.WithLabelValues(x.Name, "refused").Inc()
		d.log.Error("interface cannot be watched; it is tried again", "interface", x.Name, "mode", x.Mode, "err", err)
	}
}

// close lets go of all interfaces: what is pinned stays, or goes too.
func (d *doors) close(stay bool) error {
	var errs []error
	d.events.close()
	for _, x := range d.list {
		if x.attachment == nil {
			continue
		}
		if stay {
			errs = append(errs, x.attachment.leave())
		} else {
			errs = append(errs, x.attachment.remove())
		}
		x.attachment = nil
	}
	return errors.Join(errs...)
}

// publish lets other goroutines know how things stand.
func (d *doors) publish() {
	list := make([]*pb.Interface, 0, len(d.list))
	var known []int
	for _, x := range d.list {
		p := &pb.Interface{Name: x.Name, Mode: pb.Interface_MODE_HOST}
		if x.Mode == Mirror {
			p.Mode = pb.Interface_MODE_MIRROR
		}
		p.Down = x.down
		if x.attachment != nil {
			p.Attachment, p.Outbound = x.attachment.kind, x.attachment.outbound
			known = append(known, x.attachment.index)
		}
		list = append(list, p)
	}
	d.state.Store(&list)
	if d.events != nil {
		d.events.known.Store(&known)
	}
}

// interfaces is how the configured interfaces are watched at this moment; not to be changed.
func (d *doors) interfaces() []*pb.Interface { return *d.state.Load() }

// subscribe asks the kernel to tell of interfaces.
func (d *doors) subscribe() error {
	d.events.close()
	names := make([]string, 0, len(d.list))
	for _, x := range d.list {
		names = append(names, x.Name)
	}
	e := &linkEvents{done: make(chan struct{}), names: names}
	e.known.Store(new([]int))
	updates := make(chan netlink.LinkUpdate, 16)
	if err := netlink.LinkSubscribeWithOptions(updates, e.done, netlink.LinkSubscribeOptions{ErrorCallback: func(error) {}}); err != nil {
		return fmt.Errorf("ask the kernel to tell of interfaces: %w", err)
	}
	d.events = e
	go e.read(updates, d.changed)
	return nil
}

// linkEvents is a subscription to what happens to interfaces.
type linkEvents struct {
	done  chan struct{}
	names []string
	known atomic.Pointer[[]int] // interfaces attached to
	over  atomic.Bool
}

// read says on changed that an interface of ours may have changed. It ends with the subscription.
func (e *linkEvents) read(updates <-chan netlink.LinkUpdate, changed chan<- struct{}) {
	tell := func() {
		select {
		case changed <- struct{}{}:
		default: // it will look anyway
		}
	}
	for u := range updates {
		a := u.Attrs()
		if slices.Contains(e.names, a.Name) || slices.Contains(*e.known.Load(), a.Index) {
			tell()
		}
	}
	// Over because it was closed, or because events came faster than they were read: then look at everything.
	e.over.Store(true)
	tell()
}

func (e *linkEvents) broken() bool { return e == nil || e.over.Load() }

func (e *linkEvents) close() {
	if e != nil && e.done != nil {
		close(e.done)
		e.done = nil
	}
}

// hookName is what metrics and logs call an attachment.
func hookName(kind pb.Interface_Attachment) string {
	switch kind {
	case pb.Interface_ATTACHMENT_TCX:
		return "tcx"
	case pb.Interface_ATTACHMENT_CLSACT:
		return "clsact"
	case pb.Interface_ATTACHMENT_XDP_NATIVE:
		return "xdp-native"
	case pb.Interface_ATTACHMENT_XDP_GENERIC:
		return "xdp-generic"
	}
	return "none"
}

func outboundName(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
