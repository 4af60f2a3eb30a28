package probe

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	gnmi "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/openconfig/gnmi/proto/gnmi_ext"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// gnmiRouter is a gNMI server that answers a subscription with what answer sends.
type gnmiRouter struct {
	gnmi.UnimplementedGNMIServer
	answer func(*gnmi.SubscriptionList, grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error
}

func (r gnmiRouter) Subscribe(s grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	if !slices.Equal(md.Get("username"), []string{"tm"}) || !slices.Equal(md.Get("password"), []string{"a secret"}) {
		return status.Error(codes.Unauthenticated, "who are you?")
	}
	q, err := s.Recv()
	if err != nil {
		return err
	}
	if q.GetSubscribe().GetMode() != gnmi.SubscriptionList_ONCE || len(q.GetSubscribe().GetSubscription()) != 1 {
		return status.Error(codes.InvalidArgument, q.String())
	}
	return r.answer(q.GetSubscribe(), s)
}

// serve starts the server on loopback and returns how to ask it.
func (r gnmiRouter) serve(t testing.TB, model string) GNMI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "router"}, DNSNames: []string{"router"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})))
	gnmi.RegisterGNMIServer(s, r)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-ended })
	return GNMI{
		Address: l.Addr().(*net.TCPAddr).AddrPort(), Model: model, User: "tm", Password: "a secret", Timeout: 20 * time.Second,
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), ServerName: "router",
	}
}

// gnmiPath reads a path as documents write it, such as a/b[k=v]/c.
func gnmiPath(t testing.TB, s string) *gnmi.Path {
	t.Helper()
	p := &gnmi.Path{}
	for s != "" {
		i := strings.IndexAny(s, "/[")
		if i < 0 {
			i = len(s)
		}
		e := &gnmi.PathElem{Name: s[:i]}
		s = s[i:]
		for strings.HasPrefix(s, "[") {
			in, rest, ok := strings.Cut(s[1:], "]")
			k, v, ok2 := strings.Cut(in, "=")
			if !ok || !ok2 {
				t.Fatalf("path %q", s)
			}
			if e.Key == nil {
				e.Key = map[string]string{}
			}
			e.Key[k], s = v, rest
		}
		s = strings.TrimPrefix(s, "/")
		p.Elem = append(p.Elem, e)
	}
	return p
}

// notifications reads lines of prefix, path and value.
func notifications(t testing.TB, file string) (out []*gnmi.Notification) {
	t.Helper()
	for line := range strings.Lines(string(answer(t, file))) {
		w := strings.SplitN(strings.TrimSpace(line), " ", 3)
		val := &gnmi.TypedValue{Value: &gnmi.TypedValue_JsonIetfVal{JsonIetfVal: []byte(w[2])}}
		if n, err := strconv.ParseUint(w[2], 10, 64); err == nil {
			val = &gnmi.TypedValue{Value: &gnmi.TypedValue_UintVal{UintVal: n}}
		}
		out = append(out, &gnmi.Notification{Prefix: gnmiPath(t, w[0]), Update: []*gnmi.Update{{Path: gnmiPath(t, w[1]), Val: val}}})
	}
	return out
}

var synced = &gnmi.SubscribeResponse{Response: &gnmi.SubscribeResponse_SyncResponse{SyncResponse: true}}

func update(n *gnmi.Notification) *gnmi.SubscribeResponse {
	return &gnmi.SubscribeResponse{Response: &gnmi.SubscribeResponse_Update{Update: n}}
}

// say answers with these notifications and the end of them.
func say(all ...*gnmi.Notification) gnmiRouter {
	return gnmiRouter{answer: func(_ *gnmi.SubscriptionList, s grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
		for _, n := range all {
			if err := s.Send(update(n)); err != nil {
				return err
			}
		}
		return s.Send(synced)
	}}
}

func TestGNMI(t *testing.T) {
	for _, c := range []struct {
		model, path string
		want        map[route.Family][]string
	}{
		{"junos", "junos/system/linecard/firewall", map[route.Family][]string{
			route.IPv4: {
				"destination 203.0.113.10/32 icmp-type 8: installed 1315 packets 1876476 octets",
				"destination 203.0.113.10/32 protocol tcp destination-port 5201: installed 3311 packets 4738920 octets",
				"destination 203.0.113.11/32 protocol udp: installed",
			},
			route.IPv6: nil,
		}},
		{"ios-xr", "Cisco-IOS-XR-flowspec-oper:flow-spec/vrfs/vrf/afs/af/flows/flow", map[route.Family][]string{
			route.IPv4: {
				"destination 203.0.113.10/32 icmp-type 8: unknown 0 packets 0 octets",
				"destination 203.0.113.10/32 protocol tcp destination-port 5201: installed 3311 packets 4738920 octets",
			},
			route.IPv6: {"destination 2001:db8::1/128 protocol udp: installed 5 packets"},
		}},
	} {
		t.Run(c.model, func(t *testing.T) {
			r := say(notifications(t, "gnmi-"+c.model+".txt")...)
			inner := r.answer
			var asked *gnmi.Path
			r.answer = func(q *gnmi.SubscriptionList, s grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
				asked = proto.CloneOf(q.GetSubscription()[0].GetPath())
				return inner(q, s)
			}
			got, err := r.serve(t, c.model).Ask(t.Context(), both)
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(asked, gnmiPath(t, c.path)) {
				t.Errorf("asked for %v", asked)
			}
			for f, want := range c.want {
				if d := cmp.Diff(want, shown(got[f])); d != "" {
					t.Errorf("%s: %s", f, d)
				}
				if got[f].Unread != 0 {
					t.Errorf("%s: unread: %s", f, got[f].First)
				}
			}
		})
	}
}

// Line cards count for themselves, and what they say of a rule adds up, however they say who they are. One that says the same
// thing twice is heard once.
func TestGNMILineCards(t *testing.T) {
	const state, rule = "firewall[name=__flowspec_default_inet__]/state", "counter[name=203.0.113.10,*,proto=17]"
	leaf := func(prefix, path string, v uint64) *gnmi.Notification {
		return &gnmi.Notification{Prefix: gnmiPath(t, prefix), Update: []*gnmi.Update{{
			Path: gnmiPath(t, path), Val: &gnmi.TypedValue{Value: &gnmi.TypedValue_UintVal{UintVal: v}},
		}}}
	}
	both := func(prefix string, packets, octets uint64) []*gnmi.SubscribeResponse {
		return []*gnmi.SubscribeResponse{update(leaf(prefix, rule+"/packets", packets)), update(leaf(prefix, rule+"/bytes", octets))}
	}
	card := func(slot, engine, sequence uint64, all []*gnmi.SubscribeResponse) []*gnmi.SubscribeResponse {
		for _, r := range all {
			b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "router")
			for i, v := range map[protowire.Number]uint64{2: slot, 3: engine, 8: sequence} {
				b = protowire.AppendVarint(protowire.AppendTag(b, i, protowire.VarintType), v)
			}
			r.Extension = []*gnmi_ext.Extension{{Ext: &gnmi_ext.Extension_RegisteredExt{RegisteredExt: &gnmi_ext.RegisteredExtension{Id: junosHeader, Msg: b}}}}
		}
		return all
	}
	tree := func(component string, packets int) *gnmi.SubscribeResponse {
		text := fmt.Sprintf(`{"component":[{"name":%q,"firewall":[{"name":"__flowspec_default_inet__","state":{"timestamp":"%d","counter":[{"name":"203.0.113.10,*,proto=17","packets":%d,"bytes":%d}]}}]}]}`,
			component, packets, packets, 100*packets)
		return update(&gnmi.Notification{Update: []*gnmi.Update{{Path: gnmiPath(t, "junos"), Val: &gnmi.TypedValue{Value: &gnmi.TypedValue_JsonVal{JsonVal: []byte(text)}}}}})
	}
	for name, c := range map[string]struct {
		says []*gnmi.SubscribeResponse
		want string
	}{
		"one, twice":                {append(both("junos/"+state, 5, 500), both("junos/"+state, 6, 600)...), "6 packets 600 octets"},
		"component in the prefix":   {append(both("junos/component[name=FPC0]/"+state, 5, 500), both("junos/component[name=FPC1]/"+state, 6, 600)...), "11 packets 1100 octets"},
		"key of the filter":         {append(both("junos/firewall[name=__flowspec_default_inet__][slot=0]/state", 5, 500), both("junos/firewall[name=__flowspec_default_inet__][slot=1]/state", 6, 600)...), "11 packets 1100 octets"},
		"header":                    {append(card(0, 0, 1, both("junos/"+state, 5, 500)), card(1, 0, 1, both("junos/"+state, 6, 600))...), "11 packets 1100 octets"},
		"two engines of one card":   {append(card(0, 0, 1, both("junos/"+state, 5, 500)), card(0, 1, 1, both("junos/"+state, 6, 600))...), "11 packets 1100 octets"},
		"header, twice":             {append(card(3, 0, 1, both("junos/"+state, 5, 500)), card(3, 0, 2, both("junos/"+state, 6, 600))...), "6 packets 600 octets"},
		"one tree":                  {[]*gnmi.SubscribeResponse{tree("FPC0", 5), tree("FPC1", 6), tree("FPC1", 7)}, "12 packets 1200 octets"},
		"no header after all":       {append(card(0, 0, 1, both("junos/"+state, 5, 500)), both("junos/component[name=FPC1]/"+state, 6, 600)...), "11 packets 1100 octets"},
		"one does not tell packets": {append(both("junos/component[name=FPC0]/"+state, 5, 500), both("junos/component[name=FPC1]/"+state, 6, 600)[1:]...), "1100 octets"},
		"more than fits":            {append(both("junos/component[name=FPC0]/"+state, 5, 1<<63), both("junos/component[name=FPC1]/"+state, 6, 1<<63)...), "11 packets 18446744073709551615 octets"},
	} {
		t.Run(name, func(t *testing.T) {
			r := gnmiRouter{answer: func(_ *gnmi.SubscriptionList, s grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
				for _, a := range append(c.says, synced) {
					if err := s.Send(a); err != nil {
						return err
					}
				}
				return nil
			}}
			got, err := r.serve(t, "junos").Ask(t.Context(), []route.Family{route.IPv4})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff([]string{"destination 203.0.113.10/32 protocol udp: installed " + c.want}, shown(got[route.IPv4])); d != "" {
				t.Error(d)
			}
		})
	}
}

// What is wrong is told in words that say where to look, and never read as rules that are missing.
func TestGNMIFails(t *testing.T) {
	junos := notifications(t, "gnmi-junos.txt")
	fails := func(c codes.Code, text string) gnmiRouter {
		return gnmiRouter{answer: func(*gnmi.SubscriptionList, grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
			return status.Error(c, text)
		}}
	}
	for name, c := range map[string]struct {
		router gnmiRouter
		change func(*GNMI)
		want   string
	}{
		"nothing":     {say(), nil, "the router answers with nothing"},
		"other model": {say(&gnmi.Notification{Update: []*gnmi.Update{{Path: gnmiPath(t, "interfaces/interface[name=x]/state"), Val: &gnmi.TypedValue{}}}}), nil, "the router answers with nothing"},
		"truncated": {gnmiRouter{answer: func(_ *gnmi.SubscriptionList, s grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
			return s.Send(update(junos[6]))
		}}, nil, "before the router says that it is whole"},
		"endless": {gnmiRouter{answer: func(_ *gnmi.SubscriptionList, s grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
			for {
				if err := s.Send(update(junos[6])); err != nil {
					return err
				}
			}
		}}, func(g *GNMI) { g.octets = 1 << 20 }, "the answer is longer than"},
		"one great message": {say(&gnmi.Notification{Prefix: &gnmi.Path{Target: strings.Repeat("x", 2<<20)}}), func(g *GNMI) { g.octets = 1 << 20 }, "ResourceExhausted"},
		"silence": {gnmiRouter{answer: func(_ *gnmi.SubscriptionList, s grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
			<-s.Context().Done()
			return s.Context().Err() // which may be there before the client's own
		}}, func(g *GNMI) { g.Timeout = 300 * time.Millisecond }, "no whole answer within 300ms"},
		"unknown path": {fails(codes.NotFound, "no such path"), nil, "its software does not know the path"},
		"not allowed":  {fails(codes.PermissionDenied, "\x1b[2J"), nil, "let the user read this path"},
		"password":     {say(junos...), func(g *GNMI) { g.Password = "another secret" }, "see user and password_file"},
		"another name": {say(junos...), func(g *GNMI) { g.ServerName = "elsewhere" }, "ca_file and server_name"},
		"another CA":   {say(junos...), func(g *GNMI) { g.CA = say().serve(t, "junos").CA }, "ca_file and server_name"},
	} {
		t.Run(name, func(t *testing.T) {
			g := c.router.serve(t, "junos")
			if c.change != nil {
				c.change(&g)
			}
			got, err := g.Ask(t.Context(), both)
			if err == nil || len(got) > 0 || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), g.Address.String()) {
				t.Fatalf("got %+v %v, want %q", got, err, c.want)
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("shows too much: %v", err)
			}
		})
	}
}

// A server without TLS gets neither a question nor a password.
func TestGNMIInTheClear(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- nil
			return
		}
		buf := make([]byte, 4096)
		n, _ := c.Read(buf)
		got <- buf[:n]
		c.Close()
	}()
	t.Cleanup(func() { l.Close() })
	g := GNMI{
		Address: l.Addr().(*net.TCPAddr).AddrPort(), Model: "junos", User: "tm", Password: "a secret", Timeout: 10 * time.Second,
		CA: say().serve(t, "junos").CA, ServerName: "router",
	}
	if _, err := g.Ask(t.Context(), both); err == nil {
		t.Error("no error")
	}
	if b := <-got; len(b) == 0 || b[0] != 22 || bytes.Contains(b, []byte("a secret")) { // a TLS handshake, RFC 8446 section 5.1
		t.Errorf("sent %q", b)
	}
}

func TestGNMICheck(t *testing.T) {
	good := GNMI{Address: netip.MustParseAddrPort("192.0.2.1:57400"), Model: "ios-xr", CA: say().serve(t, "junos").CA, User: "tm", Password: "x"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*GNMI){
		"no address":                        func(g *GNMI) { g.Address = netip.AddrPort{} },
		"the router's profile does not say": func(g *GNMI) { g.Model = "" },
		"set ca_file":                       func(g *GNMI) { g.CA = nil },
		"ca_file holds no certificate":      func(g *GNMI) { g.CA = []byte("x") },
		"cert_file and key_file":            func(g *GNMI) { g.Cert = g.CA },
		"nothing says who we are":           func(g *GNMI) { g.User, g.Password = "", "" },
		"belong together":                   func(g *GNMI) { g.Password = "" },
	} {
		g := good
		change(&g)
		if err := g.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
		if _, err := g.Ask(t.Context(), both); err == nil {
			t.Errorf("%s: it was asked", want)
		}
	}
}

func TestGNMIEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	g := gnmiRouter{answer: func(_ *gnmi.SubscriptionList, s grpc.BidiStreamingServer[gnmi.SubscribeRequest, gnmi.SubscribeResponse]) error {
		cancel()
		<-s.Context().Done()
		return s.Context().Err()
	}}.serve(t, "junos")
	g.Timeout = time.Hour
	if _, err := g.Ask(ctx, both); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Whatever a notification holds: no panic, and every rule is valid, canonical and of its family.
func FuzzNotification(f *testing.F) {
	for _, file := range []string{"gnmi-junos.txt", "gnmi-ios-xr.txt"} {
		for _, n := range notifications(f, file) {
			b, err := proto.Marshal(n)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte(strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var n gnmi.Notification
		if proto.Unmarshal(b, &n) != nil {
			return
		}
		for _, m := range models {
			leaves := m.reader()
			readNotification(leaves, nil, &n)
			readNotification(leaves, nil, &n)
			for _, f := range both {
				r := leaves.reading(f)
				if leaves.none() && len(r.Rules)+r.Unread > 0 {
					t.Errorf("%d rules of nothing", len(r.Rules)+r.Unread)
				}
				for _, x := range r.Rules {
					c := route.Route{Match: x.Match, Action: route.Action{Kind: route.Discard}}
					if err := c.Validate(); err != nil || !c.Canonical().Equal(c) || c.Family() != f {
						t.Errorf("%s: %v", c, err)
					}
				}
			}
		}
	})
}

// Deep JSON is cut off.
func TestDeepJSON(t *testing.T) {
	text := strings.Repeat(`{"flow":[`, 5000) + strings.Repeat("]}", 5000)
	x := models[slices.Index(Models(), "ios-xr")].reader()
	readJSON(x, []elem{{name: "flows"}}, []byte(text))
	if !x.none() {
		t.Error("rules of nothing")
	}
}
