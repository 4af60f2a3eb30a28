package route_test

import (
	"strings"
	"testing"

	. "github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

func TestJSON(t *testing.T) {
	for text, want := range map[string]string{
		"destination 192.0.2.1/32 protocol udp source-port 53,1900-1910 then rate-limit 1Mbps":                                                `{"match":{"destination":"192.0.2.1/32","protocol":[{"from":17,"to":17}],"source_port":[{"from":53,"to":53},{"from":1900,"to":1910}]},"action":{"do":"rate-limit","bytes_per_second":125000}}`,
		"source ::7/64-128 tcp-flags syn&!ack,rst fragment is-fragment flow-label 5 then mark 0 redirect 64500L:1":                            `{"match":{"source":"::7/128","source_offset":64,"tcp_flags":[{"set":["syn"],"clear":["ack"]},{"set":["rst"]}],"fragment":[{"set":["is-fragment"]}],"flow_label":[{"from":5,"to":5}]},"action":{"do":"accept","mark":0,"redirect_target":"64500L:1"}}`,
		"destination 192.0.2.1/32 then blackhole next-hop 192.0.2.9 communities 64500:1,no-export large-communities 1:2:3 local-pref 0 med 5": `{"match":{"destination":"192.0.2.1/32"},"action":{"do":"blackhole","next_hop":"192.0.2.9","communities":["64500:1","no-export"],"large_communities":["1:2:3"],"local_pref":0,"med":5}}`,
		"destination 192.0.2.1/32 then rate-limit 500pps sample continue copy 192.0.2.9":                                                      `{"match":{"destination":"192.0.2.1/32"},"action":{"do":"rate-limit","packets_per_second":500,"sample":true,"continue":true,"copy_address":"192.0.2.9"}}`,
	} {
		r, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(r.JSON()); got != want {
			t.Errorf("%q is\n%s\nwant\n%s", text, got, want)
		}
		if back, err := ParseJSON([]byte(want)); err != nil || !back.Equal(r) {
			t.Errorf("%s is read as %q, %v", want, back, err)
		}
	}
}

func TestJSONOfEveryComponent(t *testing.T) {
	routetest.Components(t, func(field string, m Match) {
		r := Route{Match: m, Action: Action{Kind: Discard}}
		if back, err := ParseJSON(r.JSON()); err != nil || !back.Equal(r) {
			t.Errorf("%s: %s is read as %q, %v", field, r.JSON(), back, err)
		}
	})
}

func TestJSONRefuses(t *testing.T) {
	const d = `"destination":"192.0.2.1/32"`
	for in, want := range map[string]string{
		``:   "EOF",
		`[]`: "cannot unmarshal",
		`{"match":{` + d + `},"action":{"do":"discard"}} {}`:                                                "something follows",
		`{"match":{` + d + `,"prot":[]},"action":{"do":"discard"}}`:                                         "unknown field",
		`{"match":{` + d + `},"action":{"do":"drop"}}`:                                                      "is not one of",
		`{"match":{` + d + `},"action":{}}`:                                                                 "is not one of",
		`{"match":{},"action":{"do":"discard"}}`:                                                            "at least one prefix",
		`{"match":{"destination":"banana"},"action":{"do":"discard"}}`:                                      "not a prefix",
		`{"match":{"destination":"192.0.2.1/24"},"action":{"do":"discard"}}`:                                "beyond its length",
		`{"match":{"source":"2001:db8::1/128","source_offset":64},"action":{"do":"discard"}}`:               "before its offset",
		`{"match":{` + d + `,"port":[{"from":2,"to":1}]},"action":{"do":"discard"}}`:                        "ends before it begins",
		`{"match":{` + d + `,"port":[{"from":0,"to":65536}]},"action":{"do":"discard"}}`:                    "above 65535",
		`{"match":{` + d + `,"tcp_flags":[{"set":["sin"]}]},"action":{"do":"discard"}}`:                     "is not one of",
		`{"match":{` + d + `,"tcp_flags":[{}]},"action":{"do":"discard"}}`:                                  "tests nothing",
		`{"match":{` + d + `},"action":{"do":"rate-limit"}}`:                                                "needs bytes_per_second",
		`{"match":{` + d + `},"action":{"do":"rate-limit","bytes_per_second":1,"packets_per_second":1}}`:    "not both",
		`{"match":{` + d + `},"action":{"do":"discard","bytes_per_second":1}}`:                              "takes no rate",
		`{"match":{` + d + `},"action":{"do":"accept","mark":64}}`:                                          "above 63",
		`{"match":{` + d + `},"action":{"do":"accept","redirect_target":"1:1","copy_address":"192.0.2.9"}}`: "one way",
		`{"match":{` + d + `},"action":{"do":"accept","redirect_address":"banana"}}`:                        "not an address",
		`{"match":{` + d + `},"action":{"do":"blackhole","communities":["1"]}}`:                             "not a community",
		strings.Repeat(" ", MaxJSON+1):                                                                      "at most",
	} {
		if r, err := ParseJSON([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s is read as %q, %v; want an error with %q", in, r, err, want)
		}
	}
}

// FuzzJSON reads any text: what is accepted is valid and is written and read as the same, also through the text form.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"match":{"destination":"192.0.2.1/32","protocol":[{"from":17,"to":17}]},"action":{"do":"rate-limit","bytes_per_second":125000,"sample":true}}`))
	f.Add([]byte(`{"match":{"source":"::7/128","source_offset":64,"tcp_flags":[{"set":["syn"],"clear":["ack"]}]},"action":{"do":"accept","redirect_target":"64500L:1"}}`))
	f.Add([]byte(`{"match":{"destination":"192.0.2.1/32"},"action":{"do":"blackhole","next_hop":"192.0.2.9","communities":["64500:1","no-export"],"large_communities":["1:2:3"],"med":5}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseJSON(b)
		if err != nil {
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("%s is not valid: %v", b, err)
		}
		if back, err := ParseJSON(r.JSON()); err != nil || !back.Equal(r) {
			t.Fatalf("%s is written %s and read %q, %v", b, r.JSON(), back, err)
		}
		if len(r.String()) > MaxText {
			return
		}
		if back, err := Parse(r.String()); err != nil || !back.Equal(r) {
			t.Fatalf("%s is printed %q and read %q, %v", b, r, back, err)
		}
	})
}
