// Package sensor tests the sensor's program as it is shipped, on a wire of its own and on whatever kernel runs.
package sensor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// program returns the sensor: $TM_SENSOR, or one built now.
func program(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("TM_SENSOR"); p != "" {
		return p
	}
	p := filepath.Join(t.TempDir(), "sensor")
	cmd := exec.Command("go", "build", "-o", p, "../../../cmd/sensor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return p
}

// rack is a network namespace with a wire: what is sent on out arrives at in, where the sensor watches.
type rack struct {
	t           *testing.T
	sensor, dir string
	out, in     netlink.Link
	process     *exec.Cmd
	log         bytes.Buffer // written by the process: to be read when it has ended
}

// inRack runs body on a thread of its own in the rack's namespace.
func inRack(t *testing.T, body func(r *rack)) {
	t.Helper()
	lab.NeedRoot(t)
	r := &rack{t: t, sensor: program(t), dir: t.TempDir()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		ns, err := netns.New()
		if err != nil {
			t.Errorf("new namespace: %v", err)
			return
		}
		defer ns.Close()
		r.prepare()
		defer r.kill()
		body(r)
	}()
	<-done
}

func (r *rack) must(what string, err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
}

func (r *rack) prepare() {
	// Interfaces with IPv6 talk of their own accord, and here every packet is counted.
	r.must("silence IPv6", os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644))
	r.must("make a veth pair", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out", TxQLen: 1000}, PeerName: "in"}))
	for name, l := range map[string]*netlink.Link{"out": &r.out, "in": &r.in, "lo": new(netlink.Link)} {
		var err error
		*l, err = netlink.LinkByName(name)
		r.must("find "+name, err)
		r.must("set up "+name, netlink.LinkSetUp(*l))
	}
	pins := filepath.Join(r.dir, "bpf")
	r.must("make the pins' directory", os.Mkdir(pins, 0o755))
	r.must("mount a bpf file system", unix.Mount("bpf", pins, "bpf", 0, ""))
	r.t.Cleanup(func() { _ = unix.Unmount(pins, unix.MNT_DETACH) })
	config := fmt.Sprintf(`
name: rack1
controllers: [{address: "127.0.0.1:1"}]
interfaces: [{name: in, mode: host}]
slots: 64
state_file: %[1]s/state
checkpoint: %[1]s/checkpoint
pin: %[1]s/bpf/trafficmonitor
on_exit: stay
listen: {telemetry: "127.0.0.1:7445"}
`, r.dir)
	r.must("write the configuration", os.WriteFile(r.config(), []byte(config), 0o644))
}

func (r *rack) config() string { return filepath.Join(r.dir, "sensor.yaml") }

// start runs the sensor; its namespace is that of this thread.
func (r *rack) start() {
	r.t.Helper()
	r.process = exec.Command(r.sensor, "--config", r.config())
	r.process.Stdout, r.process.Stderr = &r.log, &r.log
	r.must("start the sensor", r.process.Start())
}

// kill ends the sensor at once.
func (r *rack) kill() {
	if r.process != nil {
		_ = r.process.Process.Kill()
		_ = r.process.Wait()
		r.process = nil
	}
}

// metrics reads a counter with all its labels, by label text. Only this thread is in the namespace, so the connection is
// made here and not by net/http.
func (r *rack) metrics(name string) (map[string]int, error) {
	c, err := net.DialTimeout("tcp4", "127.0.0.1:7445", 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		return nil, err
	}
	page, err := io.ReadAll(c)
	if err != nil {
		return nil, err
	}
	values := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(\{.*\})? (\S+)$`).FindAllSubmatch(page, -1) {
		f, err := strconv.ParseFloat(string(m[2]), 64)
		if err != nil {
			return nil, err
		}
		values[string(m[1])] = int(f)
	}
	return values, nil
}

// counts waits until the sensor has counted so many packets, in all.
func (r *rack) counts(want int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	err := lab.Until(ctx, fmt.Sprintf("%d packets to be counted", want), func(context.Context) error {
		values, err := r.metrics("trafficmonitor_sensor_packets_total")
		if err != nil {
			return err
		}
		sum := 0
		for _, n := range values {
			sum += n
		}
		if len(values) == 0 || sum != want {
			return fmt.Errorf("they are %v", values)
		}
		return nil
	})
	if err != nil {
		r.kill()
		r.t.Fatalf("%v\n%s", err, r.log.String())
	}
}

// send transmits n datagrams at an interface.
func (r *rack) send(l netlink.Link, n int) {
	r.t.Helper()
	frame := []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0, // Ethernet
		0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 1, 192, 0, 2, 1, // IPv4
		0, 53, 0x11, 0x5c, 0, 9, 0, 0, 0, // UDP
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	r.must("open a packet socket", err)
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}
	for range n {
		err := unix.Sendto(fd, frame, 0, to)
		for errors.Is(err, unix.ENOBUFS) {
			runtime.Gosched()
			err = unix.Sendto(fd, frame, 0, to)
		}
		r.must("send", err)
	}
}

// hooks lists what is attached to the watched interface.
func (r *rack) hooks() (list []string) {
	r.t.Helper()
	for name, a := range map[string]ebpf.AttachType{"tcx ingress": ebpf.AttachTCXIngress, "tcx egress": ebpf.AttachTCXEgress} {
		q, err := link.QueryPrograms(link.QueryOptions{Target: r.in.Attrs().Index, Attach: a})
		if noTCX(err) {
			continue
		}
		r.must("query "+name, err)
		for range q.Programs {
			list = append(list, name)
		}
	}
	for name, parent := range map[string]uint32{"filter ingress": netlink.HANDLE_MIN_INGRESS, "filter egress": netlink.HANDLE_MIN_EGRESS} {
		filters, _ := netlink.FilterList(r.in, parent)
		for range filters {
			list = append(list, name)
		}
	}
	qdiscs, err := netlink.QdiscList(r.in)
	r.must("list queueing disciplines", err)
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			list = append(list, "clsact")
		}
	}
	slices.Sort(list)
	return list
}

// noTCX says that the kernel is older than Linux 6.6, whose answer that is.
func noTCX(err error) bool {
	return errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL)
}

// attached waits until what the sensor attaches on this kernel is there, and nothing else.
func (r *rack) attached() {
	r.t.Helper()
	want := []string{"tcx egress", "tcx ingress"}
	if _, err := link.QueryPrograms(link.QueryOptions{Target: r.in.Attrs().Index, Attach: ebpf.AttachTCXIngress}); noTCX(err) {
		want = []string{"clsact", "filter egress", "filter ingress"}
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	err := lab.Until(ctx, fmt.Sprintf("%q to be attached", want), func(context.Context) error {
		if got := r.hooks(); !slices.Equal(got, want) {
			return fmt.Errorf("attached are %q", got)
		}
		return nil
	})
	if err != nil {
		r.kill()
		r.t.Fatalf("%v\n%s", err, r.log.String())
	}
}

func TestSensorOnThisKernel(t *testing.T) {
	inRack(t, func(r *rack) {
		r.start()
		r.attached()
		r.send(r.out, 1000)
		r.send(r.in, 500)
		r.counts(1500)

		// Nothing is lost while no process is there.
		r.kill()
		r.send(r.out, 250)
		r.send(r.in, 50)
		r.start()
		r.counts(1800)

		r.must("ask the sensor to end", r.process.Process.Signal(syscall.SIGTERM))
		r.must("wait for the sensor", r.process.Wait())
		r.process = nil
		r.attached() // on_exit: stay
		out, err := exec.Command(r.sensor, "detach", "--config", r.config()).CombinedOutput()
		r.must("sensor detach: "+string(out), err)
		if got := r.hooks(); len(got) > 0 {
			t.Errorf("after detach, attached are %q", got)
		}
		pins, err := filepath.Glob(filepath.Join(r.dir, "bpf", "trafficmonitor", "*", "*"))
		r.must("list pins", err)
		if len(pins) > 0 {
			t.Errorf("detach left %q", pins)
		}
	})
}
