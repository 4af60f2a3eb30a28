package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gosnmp/gosnmp"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// SNMP asks by SNMP version 3 with authentication and privacy (RFC 3414, RFC 3826, RFC 7860), or by version 2c, which sends
// its community in the clear. It reads and never writes.
type SNMP struct {
	Address netip.AddrPort
	Table   string // one of Tables
	// User and the two secrets are of version 3; AES-128 is the cipher.
	User                      string
	Auth                      string // one of Auths
	AuthSecret, PrivacySecret string
	Community                 string        // of version 2c; empty means version 3
	Timeout                   time.Duration // for all of an answer
	rows                      int           // most of them; 0 means snmpRows
}

const (
	snmpRows    = 2 * maxRules // rows a walk may have
	snmpPerAsk  = 10           // rows asked for at a time, so that an answer of long names fits an Ethernet frame
	snmpRetries = 2
	minSecret   = 8 // octets of a passphrase, RFC 3414 section 11.2
)

// tables are what can be read, by the name profiles use.
var tables = []struct {
	name string
	read func(*walker, route.Family) (Reading, error)
}{
	{"junos", walkJunos},
}

// Tables returns the names of what can be read by SNMP.
func Tables() []string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.name
	}
	return names
}

var auths = map[string]gosnmp.SnmpV3AuthProtocol{"sha1": gosnmp.SHA, "sha256": gosnmp.SHA256, "sha512": gosnmp.SHA512}

// Auths returns the names of the protocols of authentication.
func Auths() []string { return []string{"sha1", "sha256", "sha512"} }

// Check reports what is wrong; no secret is in the error.
func (s SNMP) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !s.Address.IsValid() || s.Address.Port() == 0 {
		bad("no address and port to ask")
	}
	if !slices.Contains(Tables(), s.Table) {
		bad("the router's profile does not say which table to read: name a profile with probe.snmp, which is one of %s, or ask by run or gnmi", strings.Join(Tables(), ", "))
	}
	if s.Community != "" {
		if s.User != "" {
			bad("both a user, which is version 3, and a community, which is version 2c: leave one out")
		}
		return errors.Join(errs...)
	}
	if s.User == "" || len(s.User) > 32 {
		bad("user: %q is not 1 to 32 octets long", s.User)
	}
	if _, ok := auths[s.Auth]; !ok {
		bad("auth: %q is not one of %s", s.Auth, strings.Join(Auths(), ", "))
	}
	for _, x := range []struct{ key, secret string }{{"auth_file", s.AuthSecret}, {"privacy_file", s.PrivacySecret}} {
		if len(x.secret) < minSecret {
			bad("%s: a passphrase has at least %d octets, this one has %d", x.key, minSecret, len(x.secret))
		}
	}
	return errors.Join(errs...)
}

// Ask implements Asker.
func (s SNMP) Ask(ctx context.Context, families []route.Family) (out map[route.Family]Reading, err error) {
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("ask by SNMP: %w", err)
	}
	// The library decodes what anyone may send to our port: whatever it makes of that, the sessions of this process stay.
	defer func() {
		if x := recover(); x != nil {
			out, err = nil, fmt.Errorf("ask %s by SNMP: the answer could not be decoded: %v", s.Address, x)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	w := &walker{
		s: s, ctx: ctx, rows: orElse(s.rows, snmpRows), octets: MaxOutput,
		g: &gosnmp.GoSNMP{
			Target: s.Address.Addr().String(), Port: s.Address.Port(), Transport: "udp", Context: ctx, MaxOids: 1,
			Timeout: s.Timeout / (snmpRetries + 2), Retries: snmpRetries, MaxRepetitions: snmpPerAsk,
		},
	}
	if s.Community != "" {
		w.g.Version, w.g.Community = gosnmp.Version2c, s.Community
	} else {
		w.g.Version, w.g.MsgFlags, w.g.SecurityModel = gosnmp.Version3, gosnmp.AuthPriv, gosnmp.UserSecurityModel
		w.g.SecurityParameters = &gosnmp.UsmSecurityParameters{
			UserName: s.User, AuthenticationProtocol: auths[s.Auth], AuthenticationPassphrase: s.AuthSecret,
			PrivacyProtocol: gosnmp.AES, PrivacyPassphrase: s.PrivacySecret,
		}
	}
	if err := w.g.Connect(); err != nil {
		return nil, fmt.Errorf("ask %s by SNMP: %w", s.Address, err)
	}
	conn := w.g.Conn
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // the library looks at ctx between packets only
	out = map[route.Family]Reading{}
	t := tables[slices.IndexFunc(tables, func(t struct {
		name string
		read func(*walker, route.Family) (Reading, error)
	},
	) bool {
		return t.name == s.Table
	})]
	for _, f := range families {
		reading, err := t.read(w, f)
		if err != nil { // one router, one cause: the next family would have the same after as long a wait
			return out, err
		}
		out[f] = reading
	}
	return out, nil
}

func orElse(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}

// walker walks tables of one router within limits that hold for all of its walks.
type walker struct {
	s            SNMP
	ctx          context.Context
	g            *gosnmp.GoSNMP
	rows, octets int    // left
	what         string // is being read
}

// oid is an object identifier.
type oid []uint32

func parseOID(s string) (oid, error) {
	var o oid
	for part := range strings.SplitSeq(strings.TrimPrefix(s, "."), ".") {
		v, err := strconv.ParseUint(part, 10, 32)
		if err != nil || len(o) == 128 {
			return nil, fmt.Errorf("%s is no object identifier", quote(s))
		}
		o = append(o, uint32(v))
	}
	return o, nil
}

func (o oid) String() string {
	var b strings.Builder
	for i, v := range o {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(strconv.FormatUint(uint64(v), 10))
	}
	return b.String()
}

// below reports whether o is in the tree of root, and returns what follows it there.
func (o oid) below(root oid) (oid, bool) {
	if len(o) <= len(root) || !slices.Equal(o[:len(root)], root) {
		return nil, false
	}
	return o[len(root):], true
}

// get asks for what follows an object, at most n of them.
func (w *walker) get(after oid, n int) ([]gosnmp.SnmpPDU, error) {
	fail := func(err error) error {
		if w.ctx.Err() != nil && !errors.Is(w.ctx.Err(), context.DeadlineExceeded) {
			return w.ctx.Err()
		}
		return fmt.Errorf("ask %s by SNMP for %s: %w", w.s.Address, w.what, w.words(err))
	}
	if err := w.ctx.Err(); err != nil {
		return nil, fail(err)
	}
	answer, err := w.g.GetBulk([]string{"." + after.String()}, 0, uint32(n))
	if err != nil {
		return nil, fail(err)
	}
	if answer.Error != gosnmp.NoError {
		return nil, fail(fmt.Errorf("the agent answers with error %s: see that the view of the user or community holds this part of the tree", answer.Error))
	}
	if len(answer.Variables) == 0 {
		return nil, fail(errors.New("the answer is empty"))
	}
	return answer.Variables, nil
}

// words says what to look at.
func (w *walker) words(err error) error {
	who, what := "version 3, user "+w.s.User, "privacy_file is right and the cipher there is AES-128"
	if w.s.Community != "" {
		who, what = "version 2c", "the community is right"
	}
	var hint string
	switch {
	case errors.Is(err, gosnmp.ErrUnknownUsername), errors.Is(err, gosnmp.ErrWrongDigest), errors.Is(err, gosnmp.ErrUnknownSecurityLevel),
		strings.Contains(err.Error(), "not authentic"): // the agent may not sign why it refuses, and what is not signed is not believed
		hint = "the agent does not know the user with this authentication: see that the user is there with level authPriv, and compare auth and auth_file with it"
	case errors.Is(err, gosnmp.ErrDecryption):
		hint = "compare privacy_file with the user's privacy passphrase there; the cipher is AES-128"
	case w.ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), strings.Contains(err.Error(), "timeout"):
		hint = fmt.Sprintf("no whole answer within %s: see that the agent runs, that filters let UDP through both ways, and that %s; a long table needs a longer probe.timeout", w.s.Timeout, what)
		err = late{errors.New("timeout")}
	default:
		return fmt.Errorf("%w (%s)", err, who)
	}
	return fmt.Errorf("%w (%s): %s", err, who, hint)
}

// walk visits what is below root in order.
func (w *walker) walk(root oid, visit func(index oid, v gosnmp.SnmpPDU)) error {
	last := root
	for {
		rows, err := w.get(last, snmpPerAsk)
		if err != nil {
			return err
		}
		for _, v := range rows {
			if v.Type == gosnmp.EndOfMibView {
				return nil
			}
			o, err := parseOID(v.Name)
			if err != nil {
				return fmt.Errorf("ask %s by SNMP: %w", w.s.Address, err)
			}
			if slices.Compare(o, last) <= 0 {
				return fmt.Errorf("ask %s by SNMP: the agent answers with %s as what follows %s, which would have no end: its software has a fault", w.s.Address, o, last)
			}
			index, ok := o.below(root)
			if !ok {
				return nil
			}
			w.rows--
			w.octets -= len(v.Name) + size(v.Value)
			if w.rows < 0 || w.octets < 0 {
				return fmt.Errorf("ask %s by SNMP: below %s there is more than %d rows or %d MiB: too much to be FlowSpec rules", w.s.Address, root, orElse(w.s.rows, snmpRows), MaxOutput>>20)
			}
			visit(index, v)
			last = o
		}
	}
}

// size is the length of a value that has one.
func size(v any) int {
	switch v := v.(type) {
	case []byte:
		return len(v)
	case string:
		return len(v)
	}
	return 8
}

// The columns of jnxFirewallCounterTable of JUNIPER-FIREWALL-MIB. Its index is the name of the filter, that of the counter,
// and the type of the counter, names with their length before them.
var (
	jnxCounters = oid{1, 3, 6, 1, 4, 1, 2636, 3, 5, 2}
	jnxPackets  = append(slices.Clone(jnxCounters), 1, 4)
	jnxOctets   = append(slices.Clone(jnxCounters), 1, 5)
)

const (
	jnxCounter = 2
	jnxPolicer = 3
	// jnxLongest is how many octets of a name fit an index: an object identifier has 128 numbers at most (RFC 2578 section
	// 7.1.3), and column, filter, both lengths and the type take the others. One as long may have been cut.
	jnxLongest = 128 - 12 - 1 - len("__flowspec_default_inet6__") - 2
)

// junosFilters are where Junos puts the rules.
var junosFilters = map[route.Family]string{route.IPv4: "__flowspec_default_inet__", route.IPv6: "__flowspec_default_inet6__"}

type jnxRow struct {
	policer               bool
	packets, octets       uint64
	hasPackets, hasOctets bool
}

// walkJunos reads the counters of the filter of a family. A filter that is not there has no rules, if other filters are: an
// agent that shows none shows us nothing.
func walkJunos(w *walker, f route.Family) (Reading, error) {
	r := &reader{known: true}
	filter := appendName(nil, junosFilters[f])
	rows, unread := map[string]*jnxRow{}, map[string]bool{}
	var names []string
	column := func(name string, root oid, take func(*jnxRow, uint64)) error {
		w.what = fmt.Sprintf("%s (%s) of the filter %s", name, root, junosFilters[f])
		return w.walk(append(slices.Clone(root), filter...), func(index oid, v gosnmp.SnmpPDU) {
			name, policer, err := jnxIndex(index)
			value, ok := v.Value.(uint64)
			if err == nil && (v.Type != gosnmp.Counter64 || !ok) {
				err = fmt.Errorf("%w: its counter is a %s", errUnread, v.Type)
			}
			if err != nil {
				if !unread[name] { // once, though it has two columns
					r.add(Rule{}, name, err)
				}
				unread[name] = true
				return
			}
			key := strconv.FormatBool(policer) + name
			row := rows[key]
			if row == nil {
				row = &jnxRow{policer: policer}
				rows[key] = row
				names = append(names, key)
			}
			take(row, value)
		})
	}
	err := column("jnxFWCounterPacketCount", jnxPackets, func(row *jnxRow, v uint64) { row.packets, row.hasPackets = v, true })
	if err == nil {
		err = column("jnxFWCounterByteCount", jnxOctets, func(row *jnxRow, v uint64) { row.octets, row.hasOctets = v, true })
	}
	if err != nil {
		return Reading{}, err
	}
	j := junosRules{r: r, f: f, seen: map[string]bool{}}
	for _, key := range names {
		row := rows[key]
		name := strings.TrimPrefix(strings.TrimPrefix(key, "true"), "false")
		if row.policer {
			j.policer(name)
		} else {
			j.counter(name, row.packets, row.hasPackets, row.octets, row.hasOctets)
		}
	}
	j.end()
	if len(names) == 0 && r.out.Unread == 0 {
		w.what = fmt.Sprintf("any row of jnxFirewallCounterTable (%s)", jnxCounters)
		first, err := w.get(jnxCounters, 1)
		if err != nil {
			return Reading{}, err
		}
		o, err := parseOID(first[0].Name)
		if _, ok := o.below(jnxCounters); err != nil || !ok || first[0].Type == gosnmp.EndOfMibView {
			return Reading{}, fmt.Errorf("ask %s by SNMP: the agent shows no counter of any filter below %s (jnxFirewallCounterTable): see that this is the agent of a Junos router and that the view of the user or community holds 1.3.6.1.4.1.2636.3.5", w.s.Address, jnxCounters)
		}
	}
	if len(r.out.Rules) == maxRules {
		return Reading{}, fmt.Errorf("ask %s by SNMP: the filter %s has more than %d rules", w.s.Address, junosFilters[f], maxRules)
	}
	r.out.hides = func(m route.Match) bool { return junosNameLength(m) >= jnxLongest }
	return r.out, nil
}

// junosNameLength is about how long the name of a rule is, or more.
func junosNameLength(m route.Match) int {
	n := len(m.Destination.String()) + len(m.Source.String()) + 2 + 30*(len(m.TCPFlags)+len(m.Fragment))
	for theirs, ours := range junosWords {
		ranges, _ := m.Numeric(ours)
		if len(*ranges) == 0 {
			continue
		}
		n += len(theirs)
		for _, r := range *ranges {
			n += len(fmt.Sprintf(",>=%d&<=%d", r.Lo, r.Hi))
		}
	}
	return n
}

// appendName appends a string as an index has it.
func appendName(o oid, name string) oid {
	o = append(o, uint32(len(name)))
	for _, c := range []byte(name) {
		o = append(o, uint32(c))
	}
	return o
}

// jnxIndex splits what follows the name of the filter in an index.
func jnxIndex(index oid) (name string, policer bool, err error) {
	n := int(index[0])
	if index[0] > 127 || len(index) != n+2 {
		return index.String(), false, errUnread
	}
	b := make([]byte, n)
	for i, v := range index[1 : n+1] {
		if v > 255 {
			return index.String(), false, errUnread
		}
		b[i] = byte(v)
	}
	name = string(b)
	switch kind := index[n+1]; {
	case n >= jnxLongest:
		return name, false, fmt.Errorf("%w: the name is as long as an index of SNMP can be and may have been cut", errUnread)
	case kind == jnxPolicer:
		return name, true, nil
	case kind == jnxCounter:
		return name, false, nil
	}
	return name, false, fmt.Errorf("%w: the counter is of type %d", errUnread, index[n+1])
}
