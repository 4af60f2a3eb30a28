package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier tells the service manager how the daemon is doing, as in sd_notify(3). Nil, and without a service manager, it
// does nothing. It is safe for concurrent use.
type Notifier struct {
	conn  *net.UnixConn
	every time.Duration // between two signs of life; 0 when nobody wants them

	mu     sync.Mutex
	status string    // guarded by mu; said last
	alive  time.Time // guarded by mu; when the last sign of life was sent
}

// NewNotifier takes the manager's socket and watchdog from the environment and removes them from it, so that a child
// cannot speak for us. (The daemon package of go-systemd would leave them, and connect for each word.)
func NewNotifier() (*Notifier, error) {
	address, interval, pid := os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, key := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if err := os.Unsetenv(key); err != nil {
			return nil, fmt.Errorf("remove %s from the environment: %w", key, err)
		}
	}
	if address == "" {
		return nil, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("reach the service manager at NOTIFY_SOCKET: %w", err)
	}
	n := &Notifier{conn: conn}
	if interval != "" && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		usec, err := strconv.ParseUint(interval, 10, 48)
		if err != nil || usec == 0 {
			return nil, errors.Join(fmt.Errorf("WATCHDOG_USEC is %q, which is no number of microseconds", interval), conn.Close())
		}
		n.every = time.Duration(usec) * time.Microsecond / 4 // half would do; a word may be late
	}
	return n, nil
}

// Ready says that the daemon does its work: after its start, and after a reload.
func (n *Notifier) Ready() { n.send("READY=1") }

// Stopping says that the daemon begins to end.
func (n *Notifier) Stopping() { n.send("STOPPING=1") }

// Reloading says that the daemon reads something again; Ready says when it is done.
func (n *Notifier) Reloading() {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(ts.Nano()/1000, 10))
}

// Status says in words what the daemon does; the same words again are not sent.
func (n *Notifier) Status(words string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	same := n.status == words
	n.status = words
	n.mu.Unlock()
	if !same {
		n.send("STATUS=" + strings.ReplaceAll(words, "\n", " "))
	}
}

// Alive is a sign of life. The loop that must never stand still gives it as often as it likes: few are sent. Without
// them the manager ends the daemon and starts it again.
func (n *Notifier) Alive(now time.Time) {
	if n == nil || n.every == 0 {
		return
	}
	n.mu.Lock()
	due := now.Sub(n.alive) >= n.every
	if due {
		n.alive = now
	}
	n.mu.Unlock()
	if due {
		n.send("WATCHDOG=1")
	}
}

// send is a datagram to the manager. It may be lost when the manager is busy, or away: nothing of ours depends on it.
func (n *Notifier) send(state string) {
	if n != nil {
		_, _ = n.conn.Write([]byte(state))
	}
}
