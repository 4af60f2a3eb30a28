package sensor

import "sync"

// maxFlight bounds the interval reports that wait for their receipt. A controller gives it at once; one too old to give
// any is believed to have taken what so many others followed.
const maxFlight = 32

// flight holds the interval reports that were sent on a stream and not receipted: what is lost with a connection that
// breaks is sent again, and the controller drops what had come all the same.
type flight struct {
	mu   sync.Mutex
	sent []message // guarded by mu; oldest first
}

// start notes that a message is about to be sent.
func (f *flight) start(m message) {
	if m.worth != worthInterval {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.sent = true
	if f.sent = append(f.sent, m); len(f.sent) > maxFlight {
		f.sent = append(f.sent[:0], f.sent[1:]...)
	}
}

// land takes a receipt.
func (f *flight) land(sequence uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, m := range f.sent {
		if m.report.GetSequence() == sequence {
			f.sent = append(f.sent[:0], f.sent[i+1:]...)
			return
		}
	}
}

// lost empties the flight and returns what was in it.
func (f *flight) lost() []message {
	f.mu.Lock()
	defer f.mu.Unlock()
	lost := f.sent
	f.sent = nil
	return lost
}
