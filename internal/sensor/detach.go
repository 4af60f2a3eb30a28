package sensor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
)

// DetachAll removes everything a stopped sensor of a name has left behind, and only that: pinned links, filters of this
// network namespace, what they needed on interfaces, and the maps pinned in dir (which may be empty for none). It
// says on out what it removed.
func DetachAll(dir, name string, out io.Writer) error {
	var p pins
	if dir != "" {
		found, err := bpf.FindPins(dir)
		switch {
		case errors.Is(err, bpf.ErrPinsInUse):
			return fmt.Errorf("%w; stop the sensor first", err)
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, bpf.ErrNoBPFFS):
			return err
		case err == nil:
			p.Pins = found
			defer found.Close()
		}
	}
	netns, err := thisNetns()
	if err != nil {
		return err
	}
	d := detacher{pins: p, netns: netns, filter: filterPrefix + name, out: out, interfaces: map[int]string{}}
	if err := d.run(); err != nil {
		return err
	}
	if p.Pins != nil {
		maps := p.HasMaps()
		if err := p.Remove(); err != nil {
			return err
		}
		if maps {
			d.say("maps with the counters")
		}
		d.say("directory " + dir)
	}
	if d.removed == 0 {
		fmt.Fprintln(out, "nothing to remove")
	}
	return nil
}

type detacher struct {
	pins       pins
	netns      uint64
	filter     string
	out        io.Writer
	interfaces map[int]string // names in this network namespace
	removed    int
}

func (d *detacher) say(what string) {
	d.removed++
	fmt.Fprintln(d.out, "removed", what)
}

func (d *detacher) run() error {
	all, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list the interfaces: %w", err)
	}
	var places []place
	for _, l := range all {
		d.interfaces[l.Attrs().Index] = l.Attrs().Name
		// Filters need no pin to outlive their process.
		places = append(places, place{filterIngress, l.Attrs().Index, d.netns}, place{filterEgress, l.Attrs().Index, d.netns})
	}
	var errs []error
	if d.pins.Pins != nil {
		links, err := d.pins.Links()
		marks, err2 := d.pins.Marks()
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		for _, name := range append(links, marks...) {
			at, ok := parsePlace(name)
			switch {
			case !ok || at.netns == d.netns && (at.what == filterIngress || at.what == filterEgress):
			case at.netns != d.netns && !isLink(at.what):
				errs = append(errs, fmt.Errorf("%s of interface %d is in another network namespace (inode %d): run detach there too", words(at.what), at.index, at.netns))
			default:
				places = append(places, at)
			}
		}
	}
	for _, at := range places {
		done, err := removeAt(d.pins, at, d.filter)
		if err != nil {
			errs = append(errs, err)
		} else if done {
			d.say(words(at.what) + " of " + d.name(at))
		}
	}
	return errors.Join(errs...)
}

func (d *detacher) name(at place) string {
	if at.netns != d.netns {
		return fmt.Sprintf("interface %d of another network namespace", at.index)
	}
	if n := d.interfaces[at.index]; n != "" {
		return n
	}
	return fmt.Sprintf("interface %d, which is gone", at.index)
}

// words says what is at a place.
func words(what string) string {
	if w, ok := map[string]string{
		tcxIngress: "tcx program at ingress", tcxEgress: "tcx program at egress", xdpHook: "XDP program",
		filterIngress: "clsact filter at ingress", filterEgress: "clsact filter at egress",
		madeClsact: "clsact queueing discipline", setPromisc: "promiscuous mode",
	}[what]; ok {
		return w
	}
	return strings.ReplaceAll(what, "_", " ")
}
