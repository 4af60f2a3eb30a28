package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	gnmi "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/openconfig/gnmi/proto/gnmi_ext"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// GNMI asks by a gNMI subscription of mode ONCE, over TLS. It reads and never sets.
type GNMI struct {
	Address        netip.AddrPort
	Model          string // one of Models
	CA             []byte // certificates of the authorities of routers, in PEM
	ServerName     string // in the router's certificate; empty means its address
	Cert, Key      []byte // of ours, in PEM; empty for none
	User, Password string // sent with each question, in TLS only; empty where a certificate says who we are
	Timeout        time.Duration
	octets         int // of all messages together; 0 means MaxOutput
}

// models are what can be read, by the name profiles use.
var models = []struct {
	name     string
	path     []string
	encoding gnmi.Encoding
	reader   func() leafReader
}{
	{"ios-xr", []string{"Cisco-IOS-XR-flowspec-oper:flow-spec", "vrfs", "vrf", "afs", "af", "flows", "flow"}, gnmi.Encoding_JSON_IETF, func() leafReader { return &xrLeaves{flows: map[route.Family]map[string]*xrFlow{}} }},
	{"junos", []string{"junos", "system", "linecard", "firewall"}, gnmi.Encoding_JSON, func() leafReader { return &junosLeaves{filters: map[route.Family]*junosFilter{}} }},
}

// Models returns the names of what can be read by gNMI.
func Models() []string {
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.name
	}
	return names
}

// leafReader takes the leaves of an answer, and says what they are.
type leafReader interface {
	leaf(path []elem, value string)
	reading(route.Family) Reading
	none() bool // nothing was there that shows that the router knows the model
}

// elem is one element of a path, with its keys.
type elem struct {
	name string
	keys map[string]string
}

// Check reports what is wrong; no secret is in the error.
func (g GNMI) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !g.Address.IsValid() || g.Address.Port() == 0 {
		bad("no address and port to ask")
	}
	if !slices.Contains(Models(), g.Model) {
		bad("the router's profile does not say which model to read: name a profile with probe.gnmi, which is one of %s, or ask by run or snmp", strings.Join(Models(), ", "))
	}
	switch {
	case len(g.CA) == 0:
		bad("nothing would prove who the router is: set ca_file")
	case g.User == "" && len(g.Cert) == 0:
		bad("nothing says who we are: set user and password_file, or cert_file and key_file")
	}
	if (g.User == "") != (g.Password == "") {
		bad("user and password_file belong together")
	}
	if _, err := g.tls(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (g GNMI) tls() (*tls.Config, error) {
	c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12, ServerName: g.ServerName}
	if c.ServerName == "" {
		c.ServerName = g.Address.Addr().String()
	}
	if len(g.CA) > 0 && !c.RootCAs.AppendCertsFromPEM(g.CA) {
		return nil, errors.New("ca_file holds no certificate in PEM")
	}
	if len(g.Cert) > 0 || len(g.Key) > 0 {
		pair, err := tls.X509KeyPair(g.Cert, g.Key)
		if err != nil {
			return nil, fmt.Errorf("cert_file and key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// login sends user and password as gNMI's document on authentication says, in TLS only.
type login struct{ user, password string }

func (l login) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"username": l.user, "password": l.password}, nil
}

func (login) RequireTransportSecurity() bool { return true }

// Ask implements Asker.
func (g GNMI) Ask(ctx context.Context, families []route.Family) (map[route.Family]Reading, error) {
	if err := g.Check(); err != nil {
		return nil, fmt.Errorf("ask by gNMI: %w", err)
	}
	model := models[slices.Index(Models(), g.Model)]
	path := "/" + strings.Join(model.path, "/")
	ctx, cancel := context.WithTimeout(ctx, g.Timeout)
	defer cancel()
	fail := func(err error) error {
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return fmt.Errorf("ask %s by gNMI for %s: %w", g.Address, path, g.words(err))
	}
	config, err := g.tls()
	if err != nil {
		return nil, fail(err)
	}
	most := orElse(g.octets, MaxOutput)
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(most)),
	}
	if g.User != "" {
		options = append(options, grpc.WithPerRPCCredentials(login{g.User, g.Password}))
	}
	conn, err := grpc.NewClient("passthrough:///"+g.Address.String(), options...)
	if err != nil {
		return nil, fail(err)
	}
	defer conn.Close()
	stream, err := gnmi.NewGNMIClient(conn).Subscribe(ctx)
	if err != nil {
		return nil, fail(err)
	}
	target := &gnmi.Path{}
	for _, name := range model.path {
		target.Elem = append(target.Elem, &gnmi.PathElem{Name: name})
	}
	err = stream.Send(&gnmi.SubscribeRequest{Request: &gnmi.SubscribeRequest_Subscribe{Subscribe: &gnmi.SubscriptionList{
		Mode: gnmi.SubscriptionList_ONCE, Encoding: model.encoding, Subscription: []*gnmi.Subscription{{Path: target}},
	}}})
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: Recv says why
		return nil, fail(err)
	}
	leaves := model.reader()
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, fail(errors.New("the answer ends before the router says that it is whole (sync_response)"))
		}
		if err != nil {
			return nil, fail(err)
		}
		if most -= proto.Size(answer); most < 0 {
			return nil, fail(fmt.Errorf("the answer is longer than %d MiB", MaxOutput>>20))
		}
		if answer.GetSyncResponse() {
			break
		}
		if n := answer.GetUpdate(); n != nil {
			readNotification(leaves, lineCard(answer), n)
		}
	}
	if leaves.none() {
		return nil, fail(errors.New("the router answers with nothing: see that its software has this model and that the user may read it; a router that has no FlowSpec rule at all may answer so as well"))
	}
	out := map[route.Family]Reading{}
	for _, f := range families {
		out[f] = leaves.reading(f)
		if len(out[f].Rules) == maxRules {
			return nil, fail(fmt.Errorf("the answer has more than %d rules", maxRules))
		}
	}
	return out, nil
}

// words says what to look at.
func (g GNMI) words(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	hint := ""
	switch s.Code() {
	case codes.Unavailable:
		hint = "see that the router listens there for gNMI with TLS, and that ca_file and server_name are those of its certificate"
	case codes.DeadlineExceeded:
		hint = fmt.Sprintf("no whole answer within %s: raise probe.timeout, if the router has many rules", g.Timeout)
	case codes.Unauthenticated:
		hint = "see user and password_file, or the certificate"
	case codes.PermissionDenied:
		hint = "let the user read this path there"
	case codes.Unimplemented, codes.NotFound, codes.InvalidArgument:
		hint = "its software does not know the path, or this way to ask: ask by a command instead (probe.run)"
	case codes.ResourceExhausted:
		hint = "it is too much at once, for us or for the router"
	}
	err = fmt.Errorf("%s: %s", s.Code(), quote(s.Message()))
	if hint != "" {
		err = fmt.Errorf("%w: %s", err, hint)
	}
	if s.Code() == codes.DeadlineExceeded {
		err = late{err}
	}
	return err
}

// junosHeader is the extension that Junos sends with each notification: which line card (2) and forwarding engine (3) it is of.
const junosHeader gnmi_ext.ExtensionID = 1

// lineCard returns who within the router sent an answer, as the beginning of its path; nil where the answer does not say so.
func lineCard(r *gnmi.SubscribeResponse) []elem {
	for _, x := range r.GetExtension() {
		if x.GetRegisteredExt().GetId() != junosHeader {
			continue
		}
		e := elem{name: "component", keys: map[string]string{}}
		for b := x.GetRegisteredExt().GetMsg(); len(b) > 0; {
			number, kind, n := protowire.ConsumeTag(b)
			if n < 0 {
				return nil
			}
			size := protowire.ConsumeFieldValue(number, kind, b[n:])
			if size < 0 {
				return nil
			}
			if (number == 2 || number == 3) && kind == protowire.VarintType {
				v, _ := protowire.ConsumeVarint(b[n:])
				e.keys[strconv.Itoa(int(number))] = strconv.FormatUint(v, 10)
			}
			b = b[n+size:]
		}
		return []elem{e}
	}
	return nil
}

// readNotification takes a notification of a part of the router apart into leaves.
func readNotification(leaves leafReader, of []elem, n *gnmi.Notification) {
	prefix := elems(of, n.GetPrefix())
	for _, u := range n.GetUpdate() {
		path := elems(prefix, u.GetPath())
		switch v := u.GetVal().GetValue().(type) {
		case *gnmi.TypedValue_JsonVal:
			readJSON(leaves, path, v.JsonVal)
		case *gnmi.TypedValue_JsonIetfVal:
			readJSON(leaves, path, v.JsonIetfVal)
		case *gnmi.TypedValue_UintVal:
			leaves.leaf(path, strconv.FormatUint(v.UintVal, 10))
		case *gnmi.TypedValue_IntVal:
			leaves.leaf(path, strconv.FormatInt(v.IntVal, 10))
		case *gnmi.TypedValue_StringVal:
			leaves.leaf(path, v.StringVal)
		default:
			leaves.leaf(path, "")
		}
	}
}

// elems appends a path to another; names lose the module before them.
func elems(to []elem, p *gnmi.Path) []elem {
	to = slices.Clip(to)
	for _, e := range p.GetElem() {
		to = append(to, elem{bare(e.GetName()), e.GetKey()})
	}
	return to
}

// bare is a name without the module of YANG before it.
func bare(name string) string {
	if _, after, ok := strings.Cut(name, ":"); ok {
		return after
	}
	return name
}

const maxDepth = 32

// readJSON takes a value in JSON apart. What is no JSON is a leaf without a value.
func readJSON(leaves leafReader, path []elem, text []byte) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		v = nil
	}
	walkJSON(leaves, path, v, maxDepth)
}

// walkJSON visits leaves in the order of their names. The scalars of an object may be keys of a list, so they go with it.
func walkJSON(leaves leafReader, path []elem, v any, depth int) {
	if depth == 0 {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if len(path) > 0 {
			last := path[len(path)-1]
			keys := maps.Clone(last.keys)
			for name, x := range v {
				if s, ok := x.(string); ok {
					if keys == nil {
						keys = map[string]string{}
					}
					if _, ok := keys[bare(name)]; !ok {
						keys[bare(name)] = s
					}
				}
			}
			path = append(slices.Clone(path[:len(path)-1]), elem{last.name, keys})
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			walkJSON(leaves, append(slices.Clip(path), elem{name: bare(name)}), v[name], depth-1)
		}
	case []any:
		for _, x := range v {
			walkJSON(leaves, path, x, depth-1)
		}
	case json.Number:
		leaves.leaf(path, v.String())
	case string:
		leaves.leaf(path, v)
	default:
		leaves.leaf(path, "")
	}
}

// key returns the key of the last element of this name.
func key(path []elem, name, key string) (value string, ok bool) {
	for _, e := range slices.Backward(path) {
		if e.name == name {
			value, ok = e.keys[key]
			return value, ok
		}
	}
	return "", false
}

// tail returns the names of the last two elements.
func tail(path []elem) string {
	if len(path) < 2 {
		return ""
	}
	return path[len(path)-2].name + "/" + path[len(path)-1].name
}

// junosLeaves reads the sensor /junos/system/linecard/firewall of the Junos telemetry interface:
// /junos/firewall[name=FILTER]/state/counter[name=RULE]/packets and bytes, and policer[name=RATE_RULE]. Every line card sends
// what it counted itself.
type junosLeaves struct {
	filters map[route.Family]*junosFilter
	any     bool
}

type junosFilter struct {
	counters map[string]map[string]*jnxRow // by rule, then by where the path is but for the rule: a line card
	policers map[string]bool
}

func (j *junosLeaves) none() bool { return !j.any }

func (j *junosLeaves) leaf(path []elem, value string) {
	filter, ok := key(path, "firewall", "name")
	if !ok {
		return
	}
	j.any = true
	for f, name := range junosFilters {
		if filter != name {
			continue
		}
		in := j.filters[f]
		if in == nil {
			in = &junosFilter{counters: map[string]map[string]*jnxRow{}, policers: map[string]bool{}}
			j.filters[f] = in
		}
		if rule, ok := key(path, "policer", "name"); ok {
			in.policers[rule] = true
			return
		}
		rule, ok := key(path, "counter", "name")
		if !ok {
			return
		}
		if in.counters[rule] == nil {
			in.counters[rule] = map[string]*jnxRow{}
		}
		at := place(path, "counter")
		row := in.counters[rule][at]
		if row == nil {
			row = &jnxRow{}
			in.counters[rule][at] = row
		}
		n, ok := count(value)
		switch path[len(path)-1].name {
		case "packets":
			row.packets, row.hasPackets = n, ok
		case "bytes":
			row.octets, row.hasOctets = n, ok
		}
	}
}

// place writes the elements before the last one of this name, with their keys. A timestamp is no place.
func place(path []elem, before string) string {
	var b strings.Builder
	end := len(path)
	for end > 0 && path[end-1].name != before {
		end--
	}
	for _, e := range path[:max(end-1, 0)] {
		fmt.Fprintf(&b, "%q", e.name)
		for _, k := range slices.Sorted(maps.Keys(e.keys)) {
			if k != "timestamp" {
				fmt.Fprintf(&b, "%q%q", k, e.keys[k])
			}
		}
	}
	return b.String()
}

func (j *junosLeaves) reading(f route.Family) Reading {
	r := &reader{}
	rules := junosRules{r: r, f: f, seen: map[string]bool{}}
	if in := j.filters[f]; in != nil {
		for _, name := range slices.Sorted(maps.Keys(in.counters)) {
			sum := jnxRow{hasPackets: true, hasOctets: true}
			for _, row := range in.counters[name] {
				sum.packets, sum.octets = plus(sum.packets, row.packets), plus(sum.octets, row.octets)
				sum.hasPackets, sum.hasOctets = sum.hasPackets && row.hasPackets, sum.hasOctets && row.hasOctets
			}
			rules.counter(name, sum.packets, sum.hasPackets, sum.octets, sum.hasOctets)
		}
		for _, name := range slices.Sorted(maps.Keys(in.policers)) {
			rules.policer(name)
		}
	}
	rules.end()
	return r.out
}

// plus adds counters of a router, which may say anything.
func plus(a, b uint64) uint64 {
	if sum := a + b; sum >= a {
		return sum
	}
	return math.MaxUint64
}

// xrLeaves reads Cisco-IOS-XR-flowspec-oper: flow-spec/vrfs/vrf[vrf-name]/afs/af[af-name]/flows/flow[flow-notation]/
// flow-statistics/classified. As by command, that a flow is there does not say that hardware took it.
type xrLeaves struct {
	flows map[route.Family]map[string]*xrFlow
	any   bool
}

type xrFlow struct {
	packets, octets       uint64
	hasPackets, hasOctets bool
}

func (x *xrLeaves) none() bool { return !x.any }

func (x *xrLeaves) leaf(path []elem, value string) {
	notation, ok := key(path, "flow", "flow-notation")
	if !ok {
		return
	}
	x.any = true
	if vrf, _ := key(path, "vrf", "vrf-name"); vrf != "" && vrf != "default" {
		return
	}
	af, _ := key(path, "af", "af-name")
	f, ok := map[string]route.Family{"IPv4": route.IPv4, "IPv6": route.IPv6}[af]
	if !ok {
		return
	}
	if x.flows[f] == nil {
		x.flows[f] = map[string]*xrFlow{}
	}
	flow := x.flows[f][notation]
	if flow == nil {
		flow = &xrFlow{}
		x.flows[f][notation] = flow
	}
	n, ok := count(value)
	switch tail(path) {
	case "classified/packets":
		flow.packets, flow.hasPackets = n, ok
	case "classified/bytes":
		flow.octets, flow.hasOctets = n, ok
	}
}

func (x *xrLeaves) reading(f route.Family) Reading {
	r := &reader{}
	for _, notation := range slices.Sorted(maps.Keys(x.flows[f])) {
		flow := x.flows[f][notation]
		m, err := xrMatch(notation, f)
		r.add(xrRule(m, flow.packets, flow.hasPackets, flow.octets, flow.hasOctets), notation, err)
	}
	return r.out
}
