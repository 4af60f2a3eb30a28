package ingest

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// header4 is IPv4 and TCP from 198.51.100.7:4000 to 192.0.2.1:443, header6 the same of IPv6; total is the IP packet's length.
func header4(total int, flags byte) []byte {
	b := make([]byte, 40)
	b[0], b[1], b[6], b[8], b[9] = 0x45, 10<<2, 0x40, 57, 6
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	copy(b[12:], []byte{198, 51, 100, 7, 192, 0, 2, 1})
	return append(b[:20], tcpHeader(flags)...)
}

func header6(total int, flags byte) []byte {
	b := make([]byte, 40)
	binary.BigEndian.PutUint32(b, 6<<28|uint32(10)<<22|0x12345)
	binary.BigEndian.PutUint16(b[4:], uint16(total-40))
	b[6], b[7] = 6, 57
	from, to := netip.MustParseAddr("2001:db8:1::7").As16(), netip.MustParseAddr("2001:db8::1").As16()
	copy(b[8:], from[:])
	copy(b[24:], to[:])
	return append(b, tcpHeader(flags)...)
}

func tcpHeader(flags byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 4000)
	binary.BigEndian.PutUint16(b[2:], 443)
	b[12], b[13] = 5<<4, flags
	return b
}

func batch(xs ...*pb.Sample) *pb.ConnectRequest {
	return &pb.ConnectRequest{Message: &pb.ConnectRequest_Samples{Samples: &pb.SampleBatch{Samples: xs}}}
}

func TestSamplesReachTheEngine(t *testing.T) {
	f := start(t, Options{Own: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/48")}})
	s := f.connect(t, "rack1")
	at := time.Now().Add(-time.Second).UTC()
	foreign := header4(60, 2)
	foreign[19], foreign[18] = 9, 9
	out := header4(60, 2)
	copy(out[12:20], []byte{192, 0, 2, 1, 198, 51, 100, 7})
	cut := header4(60, 2)[:30]
	send(t, s, batch(
		&pb.Sample{Time: timestamppb.New(at), Weight: 64, Vector: uint32(vector.SYN), Length: 60, Header: header4(60, 2)},
		&pb.Sample{Time: timestamppb.New(at), Weight: 64, Vector: uint32(vector.SYN), Length: 80, Header: header6(80, 2)},
		&pb.Sample{Time: timestamppb.New(at), Vector: uint32(vector.SYN), Length: 60, Header: out, Direction: pb.Direction_DIRECTION_OUTBOUND},
		&pb.Sample{Time: timestamppb.New(at), Weight: 64, Vector: uint32(vector.SYN), Length: 60, Header: foreign},
		&pb.Sample{Weight: 64, Vector: uint32(vector.SYN), Length: 60, Header: []byte("nonsense")},
		&pb.Sample{Weight: 64, Vector: uint32(vector.SYN), Length: 60},
		&pb.Sample{Weight: 64, Vector: uint32(vector.SYN), Length: 60, Header: cut},
		&pb.Sample{Weight: 64, Vector: uint32(vector.Malformed), Length: 60, Header: cut, Time: timestamppb.New(at)}, // the sensor said so
	))
	d := <-f.delivered
	four := traffic.Sample{
		Time: at, Vector: vector.SYN, Weight: 64, Source: netip.MustParseAddr("198.51.100.7"), Destination: netip.MustParseAddr("192.0.2.1"), Length: 60,
		Protocol: 6, TTL: 57, DSCP: 10, Fragment: traffic.DontFragment, HasPorts: true, SourcePort: 4000, DestinationPort: 443, TCPFlags: 2,
	}
	six := four
	six.Source, six.Destination, six.Length, six.FlowLabel, six.Fragment = netip.MustParseAddr("2001:db8:1::7"), netip.MustParseAddr("2001:db8::1"), 80, 0x12345, 0
	leaving := four
	leaving.Direction, leaving.Weight, leaving.Source, leaving.Destination = vector.Outbound, 1, four.Destination, four.Source
	if want := []traffic.Sample{four, six, leaving}; len(d.Samples) != 4 || !reflect.DeepEqual(d.Samples[:3], want) || d.Samples[3].Vector != vector.Malformed {
		t.Errorf("delivered %+v\nwant %+v and one malformed", d.Samples, want)
	}
	if d.Report.Cause != 0 || d.Received.IsZero() {
		t.Errorf("delivered %+v", d)
	}
	for why, want := range map[string]float64{unusedForeign: 1, unusedMalformed: 3, unusedQueue: 0} {
		if n := testutil.ToFloat64(f.metrics.unused.WithLabelValues(why)); n != want {
			t.Errorf("%v %s, want %v", n, why, want)
		}
	}
	if n := testutil.ToFloat64(f.metrics.samples); n != 8 {
		t.Errorf("%v samples", n)
	}
}

// Packets a host's network card merged have the length they had on the wire.
func TestMergedPacketsAreMeasuredOneByOne(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, tc := range []struct {
		header []byte
		octets int
		want   uint16
	}{
		{header4(1500, 16), 1500, 1500},
		{header4(40+3*1460, 16), 3 * 1500, 1500},
		{header6(60+4*1440, 16), 4 * 1500, 1500},
		{header4(1400, 16), 1407, 1400}, // no number of headers
	} {
		x, ok := sampleOf(now, 0, &pb.Sample{Vector: uint32(vector.ACK), Length: uint32(tc.octets), Header: tc.header})
		if !ok || x.Length != tc.want {
			t.Errorf("%d octets: length %d, ok %v, want %d", tc.octets, x.Length, ok, tc.want)
		}
	}
}

func TestSamplesGoFirstAndAreCounted(t *testing.T) {
	s := NewServer(Options{
		Deliver: func(d Delivery) bool { return len(d.Samples) == 0 }, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	x, err := s.join("rack1", "", &pb.Hello{}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	now, many := time.Now(), make([]*pb.Sample, 3000)
	for i := range many {
		many[i] = &pb.Sample{Vector: 1, Length: 60, Header: header4(60, 2)}
	}
	if err := s.take(now, x, batch(many...)); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(s.metrics.unused.WithLabelValues(unusedQueue)); n != 3000 {
		t.Errorf("%v samples dropped", n)
	}
	most := 0
	s.o.Deliver = func(d Delivery) bool { most = max(most, len(d.Samples)); return true }
	if err := s.take(now, x, batch(many...)); err != nil || most != maxDelivered {
		t.Errorf("%v; up to %d samples delivered at once", err, most)
	}
	for place, bad := range map[string]*pb.Sample{
		"samples[1].vector":    {Vector: vector.Count},
		"samples[1].header":    {Header: make([]byte, maxHeader+1)},
		"samples[1].direction": {Direction: 3},
	} {
		if err := s.take(now, x, batch(many[0], bad)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), place) {
			t.Errorf("%s: %v", place, err)
		}
	}
}

// saneSamples asks of samples that were delivered what everything behind relies on.
func saneSamples(t *testing.T, now time.Time, s *Server, in *pb.SampleBatch, delivered []Delivery) {
	t.Helper()
	n := 0
	store := traffic.NewSampleStore(traffic.SampleOptions{MaxBytes: 1 << 20})
	for _, d := range delivered {
		n += len(d.Samples)
		if len(d.Samples) == 0 || len(d.Samples) > maxDelivered || d.Report.Cause != 0 {
			t.Fatalf("delivered %+v", d)
		}
		for _, x := range d.Samples {
			if !x.Target().IsValid() || !x.Peer().IsValid() || x.Source.Is4() != x.Destination.Is4() || x.Source.Is4In6() || x.Weight == 0 || x.Vector >= vector.Count ||
				x.Direction >= vector.Directions || x.DSCP > 63 || x.FlowLabel > 0xfffff || x.Time.After(now) || x.Fragment > 15 ||
				x.HasPorts && x.Protocol != 6 && x.Protocol != 17 || x.HasICMP && x.Protocol != 1 && x.Protocol != 58 || x.HasPorts && x.Fragment&traffic.IsFragment != 0 {
				t.Fatalf("passed: %+v", x)
			}
			store.Add(now, x)
		}
	}
	unused := 0.0
	for _, why := range []string{unusedForeign, unusedMalformed, unusedQueue} {
		unused += testutil.ToFloat64(s.metrics.unused.WithLabelValues(why))
	}
	if n+int(unused) != len(in.GetSamples()) {
		t.Fatalf("%d of %d samples delivered, %v unused", n, len(in.GetSamples()), unused)
	}
}

func FuzzSamples(f *testing.F) {
	f.Add(header4(60, 2), uint32(60), uint32(vector.SYN), uint32(64), false, int64(0))
	f.Add(header6(80, 2), uint32(1<<31), uint32(vector.SYN), uint32(0), true, int64(-1))
	f.Add(header4(40+3*1460, 16), uint32(4500), uint32(vector.ACK), uint32(1), false, int64(1<<40))
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, header []byte, length, v, weight uint32, outbound bool, at int64) {
		var delivered []Delivery
		s := NewServer(Options{
			Deliver: func(d Delivery) bool { delivered = append(delivered, d); return true }, Own: []netip.Prefix{netip.MustParsePrefix("192.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
			Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		})
		x, err := s.join("rack1", "", &pb.Hello{}, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		sample := &pb.Sample{Time: &timestamppb.Timestamp{Seconds: at}, Weight: weight, Vector: v, Length: length, Header: header}
		if outbound {
			sample.Direction = pb.Direction_DIRECTION_OUTBOUND
		}
		b := &pb.SampleBatch{Samples: []*pb.Sample{sample, sample}}
		if err := s.takeSamples(now, x, b); err != nil {
			if len(header) <= maxHeader && v < vector.Count || len(delivered) > 0 {
				t.Fatalf("refused: %v", err)
			}
			return
		}
		saneSamples(t, now, s, b, delivered)
	})
}
