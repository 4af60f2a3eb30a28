package probe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gosnmp/gosnmp"
	gnmi "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

const tableFile = "TRAFFICMONITOR_TEST_TABLE"

// The test's binary is also the program that snmpd asks for the table.
func TestMain(m *testing.M) {
	if file := os.Getenv(tableFile); file != "" {
		serveTable(file)
		return
	}
	os.Exit(m.Run())
}

type row struct {
	oid   oid
	value uint64
}

// table reads rows in the order of a walk.
func table(file string) (rows []row, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		w := strings.Fields(line)
		if len(w) != 5 || w[0] == "#" {
			continue
		}
		index := appendName(appendName(nil, w[0]), w[2])
		index = append(index, map[string]uint32{"counter": jnxCounter, "policer": jnxPolicer}[w[1]])
		for i, column := range []oid{jnxPackets, jnxOctets} {
			v, err := strconv.ParseUint(w[3+i], 10, 64)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row{append(slices.Clone(column), index...), v})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return slices.Compare(a.oid, b.oid) })
	return rows, nil
}

// serveTable speaks the protocol of pass_persist in snmpd.conf(5).
func serveTable(file string) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		command := in.Text()
		if command == "PING" {
			fmt.Println("PONG")
			continue
		}
		in.Scan()
		at, err := parseOID(in.Text())
		rows, err2 := table(file)
		i := slices.IndexFunc(rows, func(r row) bool {
			c := slices.Compare(r.oid, at)
			return command == "get" && c == 0 || command == "getnext" && c > 0
		})
		if err != nil || err2 != nil || i < 0 {
			fmt.Println("NONE")
			continue
		}
		fmt.Printf(".%s\ncounter64\n%d\n", rows[i].oid, rows[i].value)
	}
}

// agent starts Debian's snmpd on loopback with the table in a file.
func agent(t *testing.T, file string) netip.AddrPort {
	t.Helper()
	lab.NeedTool(t, "snmpd")
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.LocalAddr().(*net.UDPAddr).AddrPort()
	l.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := fmt.Sprintf(`agentaddress udp:%s
createUser tm SHA-256 "an auth secret" AES "a privacy secret"
createUser old SHA "an auth secret" AES "a privacy secret"
createUser blind SHA-256 "an auth secret" AES "a privacy secret"
view rules included .1.3.6.1.4.1.2636.3.5
view system included .1.3.6.1.2.1.1
rouser tm priv -V rules
rouser old priv -V rules
rouser blind priv -V system
rocommunity sesame 127.0.0.1 -V rules
pass_persist .1.3.6.1.4.1.2636.3.5 %s
`, at, self)
	if err := os.WriteFile(filepath.Join(dir, "snmpd.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(lab.FindTool("snmpd"), "-f", "-C", "-c", filepath.Join(dir, "snmpd.conf"), "-Lo", "-m", "")
	cmd.Env = append(os.Environ(), "SNMP_PERSISTENT_DIR="+dir, "SNMPCONFPATH="+dir, tableFile+"="+file)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("snmpd said:\n%s", log.Bytes())
		}
	})
	up := SNMP{Address: at, Table: "junos", Community: "sesame", Timeout: 400 * time.Millisecond}
	until(t, "snmpd answers", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("snmpd has ended: %v", err)
		default:
		}
		_, err := up.Ask(t.Context(), []route.Family{route.IPv4})
		return err == nil
	})
	return at
}

func v3(at netip.AddrPort) SNMP {
	return SNMP{Address: at, Table: "junos", User: "tm", Auth: "sha256", AuthSecret: "an auth secret", PrivacySecret: "a privacy secret", Timeout: 10 * time.Second}
}

var both = []route.Family{route.IPv4, route.IPv6}

// A real agent, net-snmp's, that serves a table as Junos has it.
func TestSNMP(t *testing.T) {
	file := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(file, answer(t, "snmp-junos.txt"), 0o644); err != nil {
		t.Fatal(err)
	}
	at := agent(t, file)
	want := map[route.Family][]string{
		route.IPv4: {
			"destination 203.0.113.12/32 protocol udp port 445: installed 18446744073709551615 packets 18446744073709551615 octets",
			"destination 203.0.113.10/32 icmp-type 8: installed 30 packets 41496 octets",
			"destination 203.0.113.10/32 protocol tcp destination-port 5201: installed 184 packets 172233 octets",
			"destination 203.0.113.11/32 protocol udp: installed",
		},
		route.IPv6: {"destination 2001:db8::1/128 protocol udp source-port 53: installed 7 packets 700 octets"},
	}
	old, community := v3(at), SNMP{Address: at, Table: "junos", Community: "sesame", Timeout: 10 * time.Second}
	old.User, old.Auth = "old", "sha1"
	for name, s := range map[string]SNMP{"v3": v3(at), "v3 sha1": old, "v2c": community} {
		t.Run(name, func(t *testing.T) {
			got, err := s.Ask(t.Context(), both)
			if err != nil {
				t.Fatal(err)
			}
			for f, want := range want {
				lines := shown(got[f])
				slices.Sort(lines)
				slices.Sort(want)
				if d := cmp.Diff(want, lines); d != "" {
					t.Errorf("%s: %s", f, d)
				}
			}
			if r := got[route.IPv4]; r.Unread != 1 || !strings.Contains(r.First, "tcp-flag:18") {
				t.Errorf("%d unread, the first %s", r.Unread, r.First)
			}
		})
	}

	// What is wrong is told in words that say where to look, without a secret.
	for name, c := range map[string]struct {
		change func(*SNMP)
		want   string
	}{
		"user":    {func(s *SNMP) { s.User = "nobody" }, "the user is there with level authPriv"},
		"auth":    {func(s *SNMP) { s.AuthSecret = "another auth secret" }, "compare auth and auth_file"},
		"proto":   {func(s *SNMP) { s.Auth = "sha512" }, "compare auth and auth_file"},
		"privacy": {func(s *SNMP) { s.PrivacySecret = "another privacy secret" }, "privacy_file"},
		"view":    {func(s *SNMP) { s.User = "blind" }, "the view of the user or community holds 1.3.6.1.4.1.2636.3.5"},
		"community": {
			func(s *SNMP) { *s = SNMP{Address: at, Table: "junos", Community: "another secret"} }, "the community is right",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := v3(at)
			c.change(&s)
			s.Timeout = time.Second
			_, err := s.Ask(t.Context(), both)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), at.String()) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}

	// No filter of FlowSpec is an answer, while there are others; a rule that is gone is gone.
	if err := os.WriteFile(file, []byte("TEST-FIREWALL counter SSH-PACKETS 1118 72508\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := v3(at).Ask(t.Context(), both)
	if err != nil || len(got) != 2 || len(got[route.IPv4].Rules) != 0 || got[route.IPv4].Unread != 0 {
		t.Errorf("%+v %v", got, err)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := v3(at).Ask(t.Context(), both); err == nil || len(got) != 0 || !strings.Contains(err.Error(), "no counter of any filter") {
		t.Errorf("an agent without the table: %+v %v", got, err)
	}

	// Thousands of rules, in a bounded number of rows.
	var many strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&many, "__flowspec_default_inet__ counter 198.51.%d.%d,*,proto=17 %d %d\n", i/250, i%250, i, i*60)
	}
	if err := os.WriteFile(file, []byte(many.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	s := v3(at)
	s.rows = 100
	if _, err := s.Ask(t.Context(), both); err == nil || !strings.Contains(err.Error(), "more than 100 rows") {
		t.Errorf("got %v", err)
	}
}

func TestSNMPCheck(t *testing.T) {
	at := netip.MustParseAddrPort("192.0.2.1:161")
	if err := v3(at).Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*SNMP){
		"no address":                        func(s *SNMP) { s.Address = netip.AddrPort{} },
		"the router's profile does not say": func(s *SNMP) { s.Table = "" },
		"auth: \"md5\" is not one of sha1":  func(s *SNMP) { s.Auth = "md5" },
		"auth_file: a passphrase has":       func(s *SNMP) { s.AuthSecret = "short" },
		"privacy_file: a passphrase has":    func(s *SNMP) { s.PrivacySecret = "short" },
		"user: \"\" is not":                 func(s *SNMP) { s.User = "" },
		"leave one out":                     func(s *SNMP) { s.Community = "short" },
	} {
		s := v3(at)
		change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "short") {
			t.Errorf("%s: got %v", want, err)
		}
		if _, err := s.Ask(t.Context(), both); err == nil {
			t.Errorf("%s: it was asked", want)
		}
	}
}

// hostile answers each packet of version 2c with what answer makes of it.
func hostile(t *testing.T, answer func(request *gosnmp.SnmpPacket, asked oid) []byte) SNMP {
	t.Helper()
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 65535)
		for {
			n, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			request, err := (&gosnmp.GoSNMP{}).SnmpDecodePacket(buf[:n])
			if err != nil || len(request.Variables) != 1 {
				t.Errorf("we sent %x: %v", buf[:n], err)
				return
			}
			asked, err := parseOID(request.Variables[0].Name)
			if err != nil {
				t.Error(err)
				return
			}
			if b := answer(request, asked); b != nil {
				if _, err := l.WriteTo(b, from); err != nil {
					return
				}
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return SNMP{Address: l.LocalAddr().(*net.UDPAddr).AddrPort(), Table: "junos", Community: "x", Timeout: time.Second}
}

// respond encodes an answer.
func respond(t *testing.T, request *gosnmp.SnmpPacket, vars ...gosnmp.SnmpPDU) []byte {
	t.Helper()
	b, err := (&gosnmp.SnmpPacket{
		Version: gosnmp.Version2c, Community: "x", PDUType: gosnmp.GetResponse, RequestID: request.RequestID, Variables: vars,
	}).MarshalMsg()
	if err != nil {
		t.Error(err)
	}
	return b
}

func rule(column oid, name string, kind uint32) string {
	o := appendName(appendName(slices.Clone(column), junosFilters[route.IPv4]), name)
	return "." + append(o, kind).String()
}

func counter(name string, v uint64) gosnmp.SnmpPDU {
	return gosnmp.SnmpPDU{Name: name, Type: gosnmp.Counter64, Value: v}
}

func TestHostileAgents(t *testing.T) {
	const udp53 = "203.0.113.7,*,proto=17,srcport=53"
	end := gosnmp.SnmpPDU{Name: ".1.3.6.1.4.1.2636.3.6", Type: gosnmp.EndOfMibView}
	// once answers the first question about packets, and ends every other walk.
	once := func(vars ...gosnmp.SnmpPDU) func(*gosnmp.SnmpPacket, oid) []byte {
		return func(q *gosnmp.SnmpPacket, asked oid) []byte {
			if _, packets := asked.below(jnxPackets); packets && len(asked) == len(jnxPackets)+26 || asked.String() == jnxCounters.String() {
				return respond(t, q, vars...)
			}
			return respond(t, q, end)
		}
	}
	var seen atomic.Int64
	for name, c := range map[string]struct {
		answer func(*gosnmp.SnmpPacket, oid) []byte
		rows   int
		err    string // wanted; without one the reading is
		want   []string
		unread string
	}{
		"endless": {answer: func(q *gosnmp.SnmpPacket, _ oid) []byte {
			return respond(t, q, counter(rule(jnxPackets, fmt.Sprintf("203.0.113.%d,*", 100+seen.Add(1)%10), jnxCounter), 1))
		}, err: "which would have no end"},
		"the same for ever": {answer: func(q *gosnmp.SnmpPacket, _ oid) []byte {
			return respond(t, q, counter(rule(jnxPackets, "203.0.113.7,*", jnxCounter), 1))
		}, err: "which would have no end"},
		"ever more": {answer: func(q *gosnmp.SnmpPacket, _ oid) []byte {
			return respond(t, q, counter(rule(jnxPackets, fmt.Sprintf("%030d", seen.Add(1)), jnxCounter), 1))
		}, rows: 50, err: "more than 50 rows"},
		"before what was asked": {answer: func(q *gosnmp.SnmpPacket, _ oid) []byte { return respond(t, q, counter(".1.3.6.1.2.1.1.1.0", 1)) }, err: "which would have no end"},
		"silence":               {answer: func(*gosnmp.SnmpPacket, oid) []byte { return nil }, err: "no whole answer within"},
		"noise":                 {answer: func(*gosnmp.SnmpPacket, oid) []byte { return []byte("\x30\x82\xff\xff\x02\x01\x01") }, err: "ask 127.0.0.1:"},
		"truncated": {answer: func(q *gosnmp.SnmpPacket, _ oid) []byte {
			b := respond(t, q, counter(rule(jnxPackets, udp53, jnxCounter), 1))
			return b[:len(b)-5]
		}, err: "ask 127.0.0.1:"},
		"an error": {answer: func(q *gosnmp.SnmpPacket, asked oid) []byte {
			b, err := (&gosnmp.SnmpPacket{Version: gosnmp.Version2c, Community: "x", PDUType: gosnmp.GetResponse, RequestID: q.RequestID, Error: gosnmp.AuthorizationError, ErrorIndex: 1, Variables: q.Variables}).MarshalMsg()
			if err != nil {
				t.Error(err)
			}
			return b
		}, err: "AuthorizationError"},
		"wrong type": {
			answer: once(gosnmp.SnmpPDU{Name: rule(jnxPackets, udp53, jnxCounter), Type: gosnmp.OctetString, Value: "7"}, end),
			unread: "its counter is a OctetString",
		},
		"32 bits": {
			answer: once(gosnmp.SnmpPDU{Name: rule(jnxPackets, udp53, jnxCounter), Type: gosnmp.Counter32, Value: uint32(7)}, end),
			unread: "its counter is a Counter32",
		},
		"a type we do not know": {answer: once(counter(rule(jnxPackets, udp53, 5), 1), end), unread: "type 5"},
		"a name that may be cut": {
			answer: once(counter(rule(jnxPackets, udp53+strings.Repeat(",=1000", 9), jnxCounter), 1), end), unread: "may have been cut",
		},
		"an index too short": {answer: once(counter("."+append(appendName(slices.Clone(jnxPackets), junosFilters[route.IPv4]), 30, 65).String(), 1), end), unread: "not understood"},
		"no octet":           {answer: once(counter("."+append(appendName(slices.Clone(jnxPackets), junosFilters[route.IPv4]), 1, 70000, 2).String(), 1), end), unread: "not understood"},
		"control characters": {answer: once(counter(rule(jnxPackets, "\x1b[2J\x00\n", jnxCounter), 1), end), unread: `\x1b[2J\x00\n`},
		"packets only": {
			answer: once(counter(rule(jnxPackets, udp53, jnxCounter), 1<<63), end),
			want:   []string{"destination 203.0.113.7/32 protocol udp source-port 53: installed 9223372036854775808 packets"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := hostile(t, c.answer)
			s.rows = c.rows
			got, err := s.Ask(t.Context(), []route.Family{route.IPv4})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || len(got) > 0 {
					t.Errorf("got %+v %v, want %q", got, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			r := got[route.IPv4]
			if d := cmp.Diff(c.want, shown(r)); d != "" {
				t.Error(d)
			}
			if (c.unread != "") != (r.Unread == 1) || !strings.Contains(r.First, c.unread) {
				t.Errorf("%d unread, the first %s; want %q", r.Unread, r.First, c.unread)
			}
		})
	}
}

// A rule whose name does not fit an index is not called missing; one that fits is.
func TestLongNames(t *testing.T) {
	s := hostile(t, func(q *gosnmp.SnmpPacket, asked oid) []byte {
		if asked.String() == jnxCounters.String() {
			return respond(t, q, counter("."+append(slices.Clone(jnxPackets), 1, 65, 1, 65, 2).String(), 1))
		}
		return respond(t, q, counter(".1.3.6.1.4.1.2636.3.6", 1))
	})
	got, err := s.Ask(t.Context(), []route.Family{route.IPv4})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]State{
		"destination 203.0.113.7/32 protocol udp source-port 53":                                                        NotInstalled,
		"destination 203.0.113.7/32 source 198.51.100.0/24 protocol udp source-port 1001,2001,3001,4001,5001,6001,7001": Unknown,
		"destination 203.0.113.7/32 protocol tcp tcp-flags syn,ack,rst":                                                 Unknown,
	} {
		x, err := route.Parse(text + " then discard")
		if err != nil {
			t.Fatal(err)
		}
		if f := got[route.IPv4].Index().Find(x.Canonical().Match); f.State != want || f.Why == "" {
			t.Errorf("%s: %s (%s), want %s", text, f.State, f.Why, want)
		}
	}
}

// What is not authenticated is no answer of version 3, whatever it says.
func TestUnauthenticatedAnswer(t *testing.T) {
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	engine := "\x80\x00\x1f\x88\x04test"
	ended := make(chan struct{})
	var forged atomic.Int64
	go func() {
		defer close(ended)
		buf := make([]byte, 65535)
		for {
			n, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			id := messageID(buf[:n])
			p := &gosnmp.SnmpPacket{
				Version: gosnmp.Version3, MsgFlags: gosnmp.NoAuthNoPriv, SecurityModel: gosnmp.UserSecurityModel, MsgID: id, RequestID: id,
				SecurityParameters: &gosnmp.UsmSecurityParameters{AuthoritativeEngineID: engine, AuthoritativeEngineBoots: 1, AuthoritativeEngineTime: 1, UserName: "tm"},
				ContextEngineID:    engine, PDUType: gosnmp.GetResponse,
				Variables: []gosnmp.SnmpPDU{counter(rule(jnxPackets, "203.0.113.7,*", jnxCounter), 5), {Name: ".1.4", Type: gosnmp.EndOfMibView}},
			}
			if n < 100 { // the discovery of the engine, which has no user
				p.PDUType, p.Variables = gosnmp.Report, []gosnmp.SnmpPDU{{Name: ".1.3.6.1.6.3.15.1.1.4.0", Type: gosnmp.Counter32, Value: uint32(1)}}
			} else {
				forged.Add(1)
			}
			if b, err := p.MarshalMsg(); err != nil {
				t.Error(err)
			} else if _, err := l.WriteTo(b, from); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	s := v3(l.LocalAddr().(*net.UDPAddr).AddrPort())
	s.Timeout = time.Second
	got, err := s.Ask(t.Context(), both)
	if err == nil || len(got) > 0 {
		t.Errorf("forged rules are believed: %+v", got)
	}
	if forged.Load() == 0 {
		t.Errorf("no question came to be answered: %v", err)
	}
}

// messageID reads msgID of a message of version 3, RFC 3412 section 6.
func messageID(b []byte) uint32 {
	var m struct {
		Version int
		Header  struct {
			ID, MaxSize int
			Flags       []byte
			Model       int
		}
		Security []byte
		Data     asn1.RawValue
	}
	if _, err := asn1.Unmarshal(b, &m); err != nil {
		return 0
	}
	return uint32(m.Header.ID)
}

// Whatever the way to ask, an answer that is late says so, for the same question would be late again.
func TestLate(t *testing.T) {
	endless := func(limit int) Asker {
		n := 0
		s := hostile(t, func(q *gosnmp.SnmpPacket, asked oid) []byte {
			if n++; limit > 0 && n > limit {
				return nil
			}
			return respond(t, q, counter(rule(jnxPackets, fmt.Sprintf("203.0.113.7,*,proto=17,srcport=%05d", n), jnxCounter), 5))
		})
		s.Timeout, s.rows = 300*time.Millisecond, 1<<30
		return s
	}
	router := gnmiRouter{answer: func(_ *gnmi.SubscriptionList, s grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
		<-s.Context().Done()
		return s.Context().Err()
	}}.serve(t, "junos")
	router.Timeout = 300 * time.Millisecond
	for name, by := range map[string]Asker{
		"snmp, no end": endless(0),
		"snmp, silent": endless(3),
		"gnmi":         router,
		"command":      Shell{Command: Command{Argv: []string{"/bin/sh", "-c", "exec sleep 60"}, Timeout: 300 * time.Millisecond}, Parser: "junos", IPv4: "show"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := by.Ask(t.Context(), []route.Family{route.IPv4}); !errors.Is(err, ErrLate) || strings.Contains(err.Error(), ErrLate.Error()) {
				t.Errorf("got %v", err)
			}
		})
	}
	refused := Shell{Command: Command{Argv: []string{"/bin/sh", "-c", "exit 1"}, Timeout: time.Minute}, Parser: "junos", IPv4: "show"}
	if _, err := refused.Ask(t.Context(), []route.Family{route.IPv4}); err == nil || errors.Is(err, ErrLate) {
		t.Errorf("got %v", err)
	}
}

func TestSNMPEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := hostile(t, func(*gosnmp.SnmpPacket, oid) []byte { cancel(); return nil })
	s.Timeout = time.Hour
	if _, err := s.Ask(ctx, both); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Whatever an index holds, it is read as one name or not at all.
func FuzzIndex(f *testing.F) {
	f.Add([]byte{5, 'a', ',', '*', ',', 'b', 2})
	f.Add([]byte{0, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		var index oid
		for _, c := range b {
			index = append(index, uint32(c))
		}
		name, policer, err := jnxIndex(index)
		if err != nil {
			if !errors.Is(err, errUnread) {
				t.Error(err)
			}
			return
		}
		kind := uint32(jnxCounter)
		if policer {
			kind = jnxPolicer
		}
		if again := append(appendName(nil, name), kind); !slices.Equal(again, index) {
			t.Errorf("%v is read as %q", index, name)
		}
	})
}

// FuzzAgent answers a walk with octets of anyone.
func FuzzAgent(f *testing.F) {
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	s := SNMP{Address: l.LocalAddr().(*net.UDPAddr).AddrPort(), Table: "junos", Community: "x", Timeout: 40 * time.Millisecond}
	{
		b, err := (&gosnmp.SnmpPacket{Version: gosnmp.Version2c, Community: "x", PDUType: gosnmp.GetResponse, RequestID: 1, Variables: []gosnmp.SnmpPDU{
			counter(rule(jnxPackets, "203.0.113.7,*", jnxCounter), 5), {Name: ".1.4", Type: gosnmp.EndOfMibView},
		}}).MarshalMsg()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ended := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(ended)
			buf := make([]byte, 65535)
			for {
				_ = l.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				_, from, err := l.ReadFrom(buf)
				select {
				case <-done:
					return
				default:
				}
				if err != nil {
					continue
				}
				if _, err := l.WriteTo(b, from); err != nil && !errors.Is(err, io.ErrClosedPipe) {
					continue
				}
			}
		}()
		got, err := s.Ask(context.Background(), both)
		close(done)
		<-ended
		if err != nil && strings.Contains(err.Error(), "could not be decoded") {
			t.Errorf("the library panics: %v", err)
		}
		for f, r := range got {
			for _, x := range r.Rules {
				c := route.Route{Match: x.Match, Action: route.Action{Kind: route.Discard}}
				if err := c.Validate(); err != nil || c.Family() != f {
					t.Errorf("%s: %v", c, err)
				}
			}
		}
	})
}
