package scenario

import (
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// size is from where on an attack has to be found: the default policy's limit, in packets, and the windows of 32 ms that
// have to pass it, or more. They are written down here, so that a policy that finds less does not shift what has to be found;
// a test tells when the shipped policy asks for more.
type size struct {
	pps     float64
	windows int
}

func sizeOf(v vector.ID) size {
	switch v {
	case vector.Total:
		return size{2e6, 30}
	case vector.ACK, vector.FIN, vector.TCPOther:
		return size{1.5e6, 30}
	case vector.SYN, vector.SYNACK:
		return size{20e3, 1}
	case vector.TCPInvalid:
		return size{10e3, 2}
	case vector.RST:
		return size{50e3, 15}
	case vector.Malformed:
		return size{20e3, 6}
	case vector.Fragment, vector.FirstFragment:
		return size{50e3, 6}
	case vector.UDPOther, vector.DNSQuery, vector.QUIC, vector.GRE, vector.ESP, vector.IPIP, vector.OtherProto:
		return size{200e3, 15}
	}
	info, _ := vector.Get(v)
	switch {
	case info.ICMP():
		return size{30e3, 6}
	case info.Carries:
		return size{200e3, 15}
	}
	return size{20e3, 1}
}

// lasts is how long a flood of the vector goes on: long enough to be found, and then as long again for what is measured
// after that.
func (s size) lasts() time.Duration {
	return max(500*time.Millisecond, time.Duration(s.windows)*60*time.Millisecond)
}
