package route

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestAppendFlowSpec(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"RFC 8955 section 4.3.1", "destination 192.0.2.0/24 protocol tcp port 25", "0b 01 18c00002 03 8106 04 8119"},
		{
			"RFC 8955 section 4.3.2", "destination 192.0.2.0/24 source 203.0.113.0/24 port 137-139,8080",
			"12 01 18c00002 02 18cb0071 04 0389 458b 911f90",
		},
		{
			"lengths below and above 256", "destination 192.0.2.1 source-port 255,257 length 200-300",
			"12 01 20c0000201 06 01ff 910101 0a 03c8 d5012c",
		},
		{
			"all components in order of type", "destination 192.0.2.1 source 198.51.100.0/24 protocol udp port 1 destination-port 2 source-port 3 icmp-type 4 icmp-code 5 tcp-flags syn length 6 dscp 7 fragment is-fragment",
			"29 01 20c0000201 02 18c63364 03 8111 04 8101 05 8102 06 8103 07 8104 08 8105 09 8102 0a 8106 0b 8107 0c 8102",
		},
		{
			"flags set, clear, both, alternatives", "destination 192.0.2.1 tcp-flags syn,syn&!ack&!rst,!psh",
			"0f 01 20c0000201 09 0208 0102 0102 c214",
		},
		{"default route has no octets", "destination 0.0.0.0/0 source 192.0.2.1", "08 01 00 02 20c0000201"},
		{
			"IPv6 prefixes carry an offset", "destination 2001:db8::/32 source 2001:db8:0:2::/63 protocol tcp",
			"15 01 20 00 20010db8 02 3f 00 20010db800000002 03 8106",
		},
		{
			"RFC 8956 section 3.8.2: an offset inside an octet", "destination 2001:db8::/32 source ::1:1234:5678:9800:0/60-104",
			"10 01 20 00 20010db8 02 68 3c 112345678980",
		},
		{"an offset between octets", "source ::1234:5678:9a00:0/64-104", "08 02 68 40 123456789a"},
		{"an offset of all but one bit", "source ::1/127-128", "04 02 80 7f 80"},
		{"flow labels of one, two and four octets", "destination 2001:db8::/32 flow-label 1,256,65536-1048575", "17 01 20 00 20010db8 0d 0101 110100 2300010000 e5000fffff"},
		{"flags of one and of two octets", "destination 192.0.2.1 tcp-flags ae&!syn,cwr", "0e 01 20c0000201 09 0180 110100 c202"},
		{"IPv6 host", "destination 2001:db8::1 fragment is-fragment", "16 01 80 00 20010db8000000000000000000000001 0c 8102"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in, err := Parse(tc.in + " then discard")
			if err != nil {
				t.Fatal(err)
			}
			got, err := AppendFlowSpec([]byte{0xaa}, in.Match)
			if err != nil {
				t.Fatal(err)
			}
			want, err := hex.DecodeString("aa" + strings.ReplaceAll(tc.want, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s:\n got %x\nwant %x", tc.in, got, want)
			}
		})
	}
}

func TestAppendFlowSpecIsCanonical(t *testing.T) {
	a := Match{
		Destination: mustParse(t, "destination 192.0.2.1 then discard").Match.Destination,
		Port:        []Range{{90, 100}, {80, 80}, {81, 89}}, TCPFlags: []Bits{{Set: ACK}, {Set: SYN}, {Set: ACK}},
	}
	b := a
	b.Port, b.TCPFlags = []Range{{80, 100}}, []Bits{{Set: SYN}, {Set: ACK}}
	x, errX := AppendFlowSpec(nil, a)
	y, errY := AppendFlowSpec(nil, b)
	if errX != nil || errY != nil || !slices.Equal(x, y) {
		t.Errorf("one meaning, two encodings: %x (%v) and %x (%v)", x, errX, y, errY)
	}
	if a.Port[0] != (Range{90, 100}) {
		t.Error("encoding changed its argument")
	}
}

func TestAppendFlowSpecRefuses(t *testing.T) {
	dst := mustParse(t, "destination 192.0.2.1 then discard").Match.Destination
	long := Match{Destination: dst}
	for port := range uint32(78) { // 7 + 1 + 77*3 = 238 with 77, 241 with 78
		long.SourcePort = append(long.SourcePort, Range{1000 + 2*port, 1000 + 2*port})
	}
	if _, err := AppendFlowSpec(nil, long); !errors.Is(err, ErrTooLong) {
		t.Errorf("a rule of more than %d octets: %v", MaxNLRI, err)
	}
	long.SourcePort = long.SourcePort[:77]
	if b, err := AppendFlowSpec(nil, long); err != nil || len(b) > MaxNLRI+1 {
		t.Errorf("77 ports: %d octets, %v", len(b), err)
	}
	for name, m := range map[string]Match{
		"nothing":        {},
		"mixed families": {Destination: dst, Source: mustParse(t, "source 2001:db8::/32 then discard").Match.Source},
		"dscp 64":        {Destination: dst, DSCP: []Range{{64, 64}}},
		"backwards":      {Destination: dst, Port: []Range{{2, 1}}},
		"no bits":        {Destination: dst, TCPFlags: []Bits{{}}},
	} {
		if b, err := AppendFlowSpec([]byte{1}, m); err == nil || !slices.Equal(b, []byte{1}) {
			t.Errorf("%s: %x, %v; want an error and nothing appended", name, b, err)
		}
	}
}
