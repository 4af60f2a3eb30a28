package sensor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
)

// place is where in the system something of ours is. As text it names the pin or note of it.
type place struct {
	what  string // one of the below
	index int    // of the interface
	netns uint64 // inode of the network namespace, in which alone the index means something
}

const (
	tcxIngress = "tcx_ingress"
	tcxEgress  = "tcx_egress"
	xdpHook    = "xdp"

	// Notes: what is not a link has to be remembered.
	filterIngress = "filter_ingress" // our filter
	filterEgress  = "filter_egress"
	madeClsact    = "made_clsact"      // we made the queueing discipline
	setPromisc    = "made_promiscuous" // we made the interface promiscuous
)

func (p place) String() string { return fmt.Sprintf("%s-%d-%d", p.what, p.index, p.netns) }

func parsePlace(s string) (p place, ok bool) {
	parts := strings.Split(s, "-")
	if len(parts) != 3 {
		return p, false
	}
	var err1, err2 error
	p.what = parts[0]
	p.index, err1 = strconv.Atoi(parts[1])
	p.netns, err2 = strconv.ParseUint(parts[2], 10, 64)
	return p, err1 == nil && err2 == nil
}

// thisNetns returns the inode of the calling thread's network namespace.
func thisNetns() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("ask which network namespace this is: %w", err)
	}
	return st.Ino, nil
}

// PinDir is where a sensor of a name keeps its maps and links below a directory of bpffs, where names hold no dots.
func PinDir(below, name string) string {
	if below == "" {
		return ""
	}
	return below + "/" + strings.NewReplacer(".", "_", "/", "_").Replace(name)
}

// pins is a directory of pinned things, or none: then everything ends with the process and nothing is noted.
type pins struct{ *bpf.Pins }

func (p pins) mark(at place) error {
	if p.Pins == nil {
		return nil
	}
	return p.Mark(at.String())
}

func (p pins) unmark(at place) error {
	if p.Pins == nil {
		return nil
	}
	return p.Unmark(at.String())
}

// marked tells whether there is a note.
func (p pins) marked(at place) bool {
	if p.Pins == nil {
		return false
	}
	names, err := p.Marks()
	return err == nil && slices.Contains(names, at.String())
}
