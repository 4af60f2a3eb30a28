package sensor

import "sync"

// maxFlight bounds the interval reports that wait for their receipt, which comes at once: what so many others followed
// is believed to have come.
const maxFlight = 32

// flight holds the interval reports that were sent on a stream and not receipted: what is lost with a connection that
// breaks is sent again, and the controller drops what had come all the same. One that never gave a receipt is too old to
// do that, and is sent nothing twice.
type flight struct {
	mu       sync.Mutex
	receipts bool      // guarded by mu; whether any came
	sent     []message // guarded by mu; oldest first
}

// start notes that a message is about to be sent.
func (f *flight) start(m message) {
	if m.worth != worthInterval {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.again, m.sent = m.sent, true
	if f.sent = append(f.sent, m); len(f.sent) > maxFlight {
		f.sent = append(f.sent[:0], f.sent[1:]...)
	}
}

// abort notes that a message could not be sent after all.
func (f *flight) abort(m message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.sent); n > 0 && f.sent[n-1].order == m.order {
		f.sent = f.sent[:n-1]
	}
}

// land takes a receipt.
func (f *flight) land(sequence uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.receipts = true
	for i, m := range f.sent {
		if m.report.GetSequence() == sequence {
			f.sent = append(f.sent[:0], f.sent[i+1:]...)
			return
		}
	}
}

// lost empties the flight and returns what of it is to be sent again.
func (f *flight) lost() []message {
	f.mu.Lock()
	defer f.mu.Unlock()
	lost := f.sent
	f.sent = nil
	if !f.receipts {
		return nil
	}
	return lost
}
