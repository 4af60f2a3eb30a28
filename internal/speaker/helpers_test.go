package speaker

import (
	"bufio"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

func parse(t testing.TB, s string) route.Route {
	t.Helper()
	r, err := route.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustParse(s string) route.Route {
	r, err := route.Parse(s)
	if err != nil {
		panic(err)
	}
	return r
}

// desired returns routes that end in an hour.
func desired(t testing.TB, texts ...string) []Desired {
	t.Helper()
	var out []Desired
	now := time.Now()
	for _, s := range texts {
		out = append(out, Desired{Route: parse(t, s), Created: now.Add(-10 * time.Minute), Deadline: now.Add(time.Hour), Owners: []string{"m-1"}, Manual: true})
	}
	return out
}

func testLimits() safety.Limits {
	l := safety.Defaults()
	l.Own = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("10.0.0.0/8")}
	l.MaxRules, l.MaxNewPerMinute, l.MaxRulesPerOwner = 100_000, 100_000, 100_000
	l.MaxRulesPerResponse, l.MaxRulesPerGroup = 100_000, 100_000
	l.MaxRulesPerTarget = 1000
	l.MaxOwnShare, l.AllowLargeShare = 1, true
	return l
}

func testLog(t testing.TB) *slog.Logger {
	o := &output{to: t.Output()}
	t.Cleanup(func() { o.set(io.Discard) })
	return slog.New(slog.NewTextHandler(o, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// output is a test's, until the test is over: GoBGP's state machines may say something after their server has stopped.
type output struct {
	mu sync.Mutex
	to io.Writer // guarded by mu
}

func (o *output) set(to io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.to = to
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.to.Write(b)
}

func testOptions(t testing.TB, peers ...Peer) Options {
	dir := t.TempDir()
	return Options{
		Socket: filepath.Join(dir, "s"), Journal: filepath.Join(dir, "journal"), Version: "test",
		ASN: poolASN, RouterID: netip.MustParseAddr(poolID), ListenPort: -1,
		Peers: peers, blameSpan: 150 * time.Millisecond, bgp: servers.take, Safety: testLimits(), Log: testLog(t),
	}
}

// running is a speaker in this process.
type running struct {
	t      testing.TB
	client *Client
	reg    *prometheus.Registry
	cancel context.CancelFunc
	done   chan error
}

func start(t testing.TB, o Options) *running {
	t.Helper()
	reg := prometheus.NewRegistry()
	o.Registerer = reg
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, reg: reg, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- Run(ctx, o) }()
	t.Cleanup(r.stop)
	waitFor(t, "the socket", func() bool {
		select {
		case err := <-r.done:
			t.Fatalf("Run: %v", err)
		default:
		}
		c, err := net.Dial("unix", o.Socket)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	c, err := Dial(o.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r.client = c
	return r
}

func (r *running) stop() {
	r.cancel()
	if r.done == nil {
		return
	}
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		r.t.Error("Run does not end")
	}
	r.done = nil
}

func (r *running) set(term, revision uint64, routes []Desired) Result {
	r.t.Helper()
	res, err := r.client.Set(context.Background(), term, revision, routes)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

func (r *running) status() Status {
	r.t.Helper()
	st, err := r.client.Status(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return st
}

// waitFor polls what has no channel to wait on: another process or the kernel.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited 30 s for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// fakeRouter speaks just enough BGP to be a router: it keeps what it is told as texts of routes.
type fakeRouter struct {
	t       testing.TB
	ln      net.Listener
	tables  []compile.Table
	asn     uint32
	poison  map[string]bool  // matches the router dies of: true says it sends a NOTIFICATION before; guarded by mu
	refuses compile.Table    // the router sends a NOTIFICATION upon any route of it; guarded by mu
	most    int              // routes it takes before it says that there are too many; 0 means no limit; guarded by mu
	mostOf  []compile.Table  // those that count; nil: all; guarded by mu
	says    []byte           // the data of its NOTIFICATION then; nil: the first table that counts and most; guarded by mu
	onUp    func(c net.Conn) // called when the session is established, before UPDATEs are read; may be nil

	mu      sync.Mutex
	rib     map[string]string // text of the match -> action in words; guarded by mu
	ever    map[string]bool   // matches it was ever told; guarded by mu
	updates int               // UPDATEs with routes in this and former sessions; guarded by mu
	eor     int               // guarded by mu
	open    open              // guarded by mu
	up      int               // guarded by mu
	notif   []byte            // last NOTIFICATION; guarded by mu
	conn    net.Conn          // guarded by mu
	moved   chan struct{}     // closed when rib changes; guarded by mu
	plain   bool              // it has no graceful restart; set before serve
	keep    bool              // do not forget routes when the session ends without NOTIFICATION; guarded by mu
}

var fakeRouters atomic.Uint32 // peers of one speaker need different addresses

func newFakeRouter(t testing.TB) *fakeRouter {
	t.Helper()
	ln, err := net.Listen("tcp4", fmt.Sprintf("127.0.1.%d:0", fakeRouters.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeRouter{t: t, ln: ln, tables: compile.Tables(), asn: 65001, rib: map[string]string{}, ever: map[string]bool{}}
	t.Cleanup(func() { ln.Close(); f.drop() })
	return f
}

// serve begins to accept; what is set before holds for all sessions.
func (f *fakeRouter) serve() *fakeRouter {
	go func() {
		for {
			c, err := f.ln.Accept()
			if err != nil {
				return
			}
			f.session(c)
		}
	}()
	return f
}

func (f *fakeRouter) peer(name string) Peer {
	a := f.ln.Addr().(*net.TCPAddr).AddrPort()
	return Peer{Name: name, Address: a.Addr().Unmap(), Port: int(a.Port()), ASN: f.asn, ConnectRetry: time.Second}
}

// drop breaks the present session.
func (f *fakeRouter) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn != nil {
		f.conn.Close()
	}
}

func (f *fakeRouter) session(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	typ, body, err := readMessage(r, nil)
	if err != nil || typ != msgOpen {
		return
	}
	o, err := parseOpen(body)
	if err != nil {
		f.t.Errorf("OPEN of the speaker: %v", err)
		return
	}
	mine := open{
		asn: f.asn, hold: 90, id: [4]byte{10, 66, 0, 11}, tables: f.tables, refresh: true, fourOctet: true,
	}
	if !f.plain {
		mine.graceful, mine.restartFlags = true, 120
	}
	for _, t := range f.tables {
		if f.plain {
			break
		}
		mine.gracefulOf = append(mine.gracefulOf, gracefulTable{t, 0})
	}
	_, _ = c.Write(appendOpen(nil, mine))
	if typ, _, err = readMessage(r, nil); err != nil || typ != msgKeepalive {
		return
	}
	_, _ = c.Write(appendMessage(nil, msgKeepalive, nil))
	f.mu.Lock()
	f.up++
	f.open, f.conn, f.notif = o, c, nil
	f.mu.Unlock()
	if f.onUp != nil {
		f.onUp(c)
	}
	fresh := map[string]string{}
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.conn = nil
		if !f.keep || f.notif != nil {
			clear(f.rib)
		}
	}()
	for {
		typ, body, err := readMessage(r, nil)
		if err != nil {
			return
		}
		switch typ {
		case msgNotification:
			f.mu.Lock()
			f.notif = slices.Clone(body)
			f.mu.Unlock()
			return
		case msgUpdate:
			f.update(body, fresh)
			if data, over := f.over(); over {
				_, _ = c.Write(appendMessage(nil, msgNotification, append([]byte{6, 1}, data...)))
				return
			}
			if refuse, dies := f.poisoned(); dies {
				if refuse {
					_, _ = c.Write(appendMessage(nil, msgNotification, []byte{3, 9, 0xc0, 16}))
				}
				return
			}
		}
	}
}

// over reports whether it has more routes than it takes, and what it says of that.
func (f *fakeRouter) over() (data []byte, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.most == 0 {
		return nil, false
	}
	n := 0
	for m := range f.rib {
		if f.mostOf == nil || slices.Contains(f.mostOf, tableOfText(m)) {
			n++
		}
	}
	if n <= f.most {
		return nil, false
	}
	if f.says != nil {
		return f.says, true
	}
	afi, safi := uint16(1), byte(133)
	if f.mostOf != nil {
		afi, safi = afiOf(f.mostOf[0])
	}
	return []byte{0, byte(afi), safi, 0, 0, 0, byte(f.most)}, true
}

// tableOfText is the table of a match as fakeRouter keeps it.
func tableOfText(match string) compile.Table {
	v6, hole := strings.Contains(match, ":"), strings.HasPrefix(match, "blackhole ")
	switch {
	case v6 && hole:
		return compile.IPv6Unicast
	case v6:
		return compile.IPv6FlowSpec
	case hole:
		return compile.IPv4Unicast
	}
	return compile.IPv4FlowSpec
}

func (f *fakeRouter) poisoned() (refuse, dies bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuses != "" {
		for m := range f.rib {
			if tableOfText(m) == f.refuses {
				return true, true
			}
		}
	}
	for m, how := range f.poison {
		if _, ok := f.rib[m]; ok {
			return how, true
		}
	}
	return false, false
}

// update applies one UPDATE.
func (f *fakeRouter) update(b []byte, fresh map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := int(binary.BigEndian.Uint16(b))
	withdrawn, rest := b[2:2+n], b[2+n:]
	n = int(binary.BigEndian.Uint16(rest))
	attrs, nlri := rest[2:2+n], rest[2+n:]
	if len(withdrawn)+len(nlri)+len(attrs) == 0 {
		f.eor++
		return
	}
	words := ""
	var reach, unreach []byte
	var t compile.Table
	for len(attrs) > 0 {
		typ, head, l := attrs[1], 3, int(attrs[2])
		if attrs[0]&0x10 != 0 {
			head, l = 4, int(binary.BigEndian.Uint16(attrs[2:]))
		}
		v := attrs[head : head+l]
		attrs = attrs[head+l:]
		switch typ {
		case 3:
			words += fmt.Sprintf(" next-hop %v", netip.AddrFrom4([4]byte(v)))
		case 8:
			for ; len(v) > 0; v = v[4:] {
				words += fmt.Sprintf(" community %d:%d", binary.BigEndian.Uint16(v), binary.BigEndian.Uint16(v[2:]))
			}
		case 16:
			words += fmt.Sprintf(" extended %x", v)
		case 14:
			t, _ = tableOfAFI(binary.BigEndian.Uint16(v), v[2])
			if hop := v[4 : 4+v[3]]; len(hop) > 0 {
				a, _ := netip.AddrFromSlice(hop)
				words += fmt.Sprintf(" next-hop %v", a)
			}
			reach = v[5+v[3]:]
		case 15:
			t, _ = tableOfAFI(binary.BigEndian.Uint16(v), v[2])
			if unreach = v[3:]; len(unreach) == 0 {
				f.eor++
				return
			}
		}
	}
	f.updates++
	defer func() {
		if f.moved != nil {
			close(f.moved)
			f.moved = nil
		}
	}()
	for _, m := range f.matches(compile.IPv4Unicast, withdrawn) {
		delete(f.rib, m)
	}
	for _, m := range f.matches(t, unreach) {
		delete(f.rib, m)
	}
	for _, m := range append(f.matches(compile.IPv4Unicast, nlri), f.matches(t, reach)...) {
		f.rib[m], f.ever[m] = words[1:], true
		fresh[m] = words
	}
}

func (f *fakeRouter) matches(t compile.Table, b []byte) []string {
	var out []string
	for len(b) > 0 {
		switch t {
		case compile.IPv4FlowSpec, compile.IPv6FlowSpec:
			fam := route.IPv4
			if t == compile.IPv6FlowSpec {
				fam = route.IPv6
			}
			m, err := safety.DecodeFlowSpec(fam, b[:1+b[0]])
			if err != nil {
				f.t.Errorf("the speaker sent the NLRI %x: %v", b, err)
				return out
			}
			out = append(out, m.String())
			b = b[1+b[0]:]
		default:
			n := (int(b[0]) + 7) / 8
			a := make([]byte, 4)
			if t == compile.IPv6Unicast {
				a = make([]byte, 16)
			}
			copy(a, b[1:1+n])
			addr, _ := netip.AddrFromSlice(a)
			out = append(out, "blackhole "+netip.PrefixFrom(addr, int(b[0])).String())
			b = b[1+n:]
		}
	}
	return out
}

func (f *fakeRouter) routes() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.rib)
}

func (f *fakeRouter) get(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

func (f *fakeRouter) count() (n int) {
	f.get(func() { n = len(f.rib) })
	return n
}

// await returns as soon as the router holds n routes.
func (f *fakeRouter) await(t testing.TB, n int) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		f.mu.Lock()
		have := len(f.rib)
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.mu.Unlock()
		if have == n {
			return
		}
		select {
		case <-moved:
		case <-timeout:
			t.Fatalf("the router has %d routes, not %d", have, n)
		}
	}
}

// awaitMatch returns as soon as the router holds a route with this match.
func (f *fakeRouter) awaitMatch(t testing.TB, match string) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		f.mu.Lock()
		_, ok := f.rib[match]
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-moved:
		case <-timeout:
			t.Fatalf("the router does not get %q", match)
		}
	}
}

func (f *fakeRouter) sessions() (n int) {
	f.get(func() { n = f.up })
	return n
}

func TestMain(m *testing.M) {
	if cfg := os.Getenv("SPEAKER_TEST_PROCESS"); cfg != "" {
		os.Exit(testProcess(cfg))
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = f.Value.Set("8") // they wait for one another's sessions, not for a processor
	}
	if err := servers.fill(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// servers are GoBGP servers started before any test runs: StartBgp sets package variables that others read, so that tests
// that start one could not run side by side.
var servers pool

type pool struct {
	mu   sync.Mutex
	free []pooled // guarded by mu
}

type pooled struct {
	*server.BgpServer
	log *bgpLog
}

const (
	poolSize = 160 // routers of all tests together, restarts counted
	poolASN  = 65000
	poolID   = "10.66.0.1"
)

func (p *pool) fill() error {
	runs, err := strconv.Atoi(flag.Lookup("test.count").Value.String())
	if err != nil {
		return err
	}
	for range runs * poolSize {
		log := &bgpLog{log: slog.New(slog.DiscardHandler)}
		b := server.NewBgpServer(server.LoggerOption(log))
		go b.Serve()
		if err := b.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{Asn: poolASN, RouterId: poolID, ListenPort: -1}}); err != nil {
			return err
		}
		p.free = append(p.free, pooled{b, log})
	}
	return nil
}

// take is startBGP.
func (p *pool) take(asn uint32, id netip.Addr, log *slog.Logger) (*server.BgpServer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if asn != poolASN || id.String() != poolID || len(p.free) == 0 {
		return nil, fmt.Errorf("the tests have %d servers left of AS %d and %s: raise poolSize, or do not ask for AS %d, %s", len(p.free), poolASN, poolID, asn, id)
	}
	s := p.free[0]
	p.free = p.free[1:]
	s.log.log = log
	return s.BgpServer, nil
}

func encodeRoute(r route.Route) (encoded, error) { return encode(safety.Make(r), anyRouter()) }

// hand makes items the only routes.
func (s *speaker) hand(term, revision uint64, items []*item) (Result, error) {
	return s.take(term, revision, func() (order, error) {
		sortItems(items)
		return order{items: items}, nil
	})
}
