package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

const ownASN = 65000

// rule is the route with this number; urgentRoute is none of them.
func rule(i int) (route.Route, error) {
	return route.Parse(fmt.Sprintf("destination 10.%d.%d.%d/32 protocol udp source-port 53 then discard", i>>16, i>>8&255, i&255))
}

func ruleNLRI(i int) ([]byte, error) {
	r, err := rule(i)
	if err != nil {
		return nil, err
	}
	return route.AppendFlowSpec(nil, r.Match)
}

const urgentText = "destination 10.255.255.255/32 then blackhole"

func urgentNLRI() []byte { return []byte{32, 10, 255, 255, 255} }

// sender is a process that announces to routers.
type sender interface {
	// prepare does what is not measured.
	prepare(n int) error
	// set makes the first n rules, and the urgent one, what is announced. It may return before they are.
	set(n int, urgent bool) error
	process() int
	stop()
}

// ours is "controller speaker", with its journal on disk, told over its socket as a controller tells it.
type ours struct {
	cmd      *exec.Cmd
	client   *speaker.Client
	revision uint64
	routes   []speaker.Desired
	urgent   speaker.Desired
}

func startOurs(program, dir string, routers []*router, programRate int) (*ours, error) {
	var peers strings.Builder
	for i, r := range routers {
		a := r.ln.Addr().String()
		host, port, _ := strings.Cut(a, ":")
		fmt.Fprintf(&peers, "    - {name: r%d, address: %s, port: %s, asn: %d, connect_retry: 1s, program_rate: %d, families: [ipv4-unicast, ipv4-flowspec]}\n",
			i+1, host, port, routerASN, programRate)
	}
	config := fmt.Sprintf(`name: bench
data_dir: %[1]s
network:
  own_prefixes: [10.0.0.0/8]
safety: {max_rules: 100000, max_new_per_minute: 100000, max_rules_per_owner: 100000, max_rules_per_response: 100000, max_rules_per_group: 100000}
speaker:
  socket: %[1]s/s
  asn: %[2]d
  router_id: 10.66.0.1
  telemetry: ""
  peers:
%[3]slog: {level: error}
`, dir, ownASN, peers.String())
	file := filepath.Join(dir, "controller.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	o := &ours{cmd: exec.Command(program, "speaker", "--config", file)}
	o.cmd.Stderr = os.Stderr
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	var err error
	if o.client, err = speaker.Dial(filepath.Join(dir, "s")); err != nil {
		o.stop()
		return nil, err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		st, err := o.client.Status(context.Background())
		if err == nil {
			o.revision = st.Revision
			return o, nil
		}
		if time.Now().After(end) {
			o.stop()
			return nil, fmt.Errorf("the speaker does not answer: %w", err)
		}
	}
}

func (o *ours) prepare(n int) error {
	now := time.Now()
	for i := len(o.routes); i < n; i++ {
		r, err := rule(i)
		if err != nil {
			return err
		}
		o.routes = append(o.routes, speaker.Desired{Route: r, Created: now.Add(-time.Hour), Deadline: now.Add(12 * time.Hour), Owners: []string{"m-" + strconv.Itoa(i)}})
	}
	r, err := route.Parse(urgentText)
	o.urgent = speaker.Desired{Route: r, Created: now, Deadline: now.Add(12 * time.Hour), Owners: []string{"urgent"}, Manual: true}
	return err
}

func (o *ours) set(n int, urgent bool) error {
	routes := o.routes[:n:n]
	if urgent {
		routes = append(routes, o.urgent)
	}
	o.revision++
	res, err := o.client.Set(context.Background(), 1, o.revision, routes)
	if err == nil && len(res.Refused) > 0 {
		err = fmt.Errorf("the speaker refused %d routes: %+v", len(res.Refused), res.Refused[0])
	}
	return err
}

func (o *ours) process() int { return o.cmd.Process.Pid }

func (o *ours) stop() {
	if o.client != nil {
		o.client.Close()
	}
	end(o.cmd)
}

func end(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_ = cmd.Wait()
}

// bareSender drives a bare GoBGP.
type bareSender struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	have   int
	urgent bool
}

func startBare(routers []*router, id netip.Addr) (*bareSender, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &bareSender{cmd: exec.Command(self, "bare")}
	b.cmd.Stderr = os.Stderr
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	b.out = bufio.NewScanner(out)
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	o := bareOptions{RouterID: id.String(), Peers: map[string]int{}}
	for _, r := range routers {
		host, _, _ := strings.Cut(r.ln.Addr().String(), ":")
		o.Peers[host] = r.port()
	}
	if err := b.tell(o); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

// tell sends a line and waits for the answer.
func (b *bareSender) tell(v any) error {
	if err := json.NewEncoder(b.in).Encode(v); err != nil {
		return err
	}
	if !b.out.Scan() || b.out.Text() != "ok" {
		return errors.New("the bare GoBGP ended")
	}
	return nil
}

func (b *bareSender) prepare(n int) error { return b.tell(bareCommand{To: n, Prepare: true}) }

func (b *bareSender) set(n int, urgent bool) error {
	if urgent != b.urgent {
		b.urgent = urgent
		if err := b.tell(bareCommand{Urgent: true, Withdraw: !urgent}); err != nil {
			return err
		}
	}
	if n == b.have {
		return nil
	}
	c := bareCommand{From: b.have, To: n}
	if n < b.have {
		c = bareCommand{From: n, To: b.have, Withdraw: true}
	}
	b.have = n
	return b.tell(c)
}

func (b *bareSender) process() int { return b.cmd.Process.Pid }
func (b *bareSender) stop()        { b.in.Close(); end(b.cmd) }

// cpu is what a process has worked, user and system.
func cpu(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// resident is the memory of a process, and its peak, in octets.
func resident(pid int) (now, peak uint64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseUint(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = n << 10
		case "VmHWM:":
			peak = n << 10
		}
	}
	return now, peak
}
