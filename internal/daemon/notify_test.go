package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// manager is the socket of a service manager.
func manager(t *testing.T, address string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", address)
	return c
}

func heard(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	buffer := make([]byte, 4096)
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

func TestNotifier(t *testing.T) {
	for name, address := range map[string]string{
		"path": filepath.Join(t.TempDir(), "notify"), "abstract": "@trafficmonitor-test-" + strconv.Itoa(os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			c := manager(t, address)
			t.Setenv("WATCHDOG_USEC", "40000000")
			t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
			n, err := NewNotifier()
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
				if value, ok := os.LookupEnv(key); ok {
					t.Errorf("a child would inherit %s=%s", key, value)
				}
			}
			now := time.Unix(1e9, 0)
			n.Ready()
			n.Status("watches eth0\nand more")
			n.Status("watches eth0\nand more")
			n.Alive(now)
			n.Alive(now.Add(9 * time.Second))
			n.Alive(now.Add(10 * time.Second))
			n.Reloading()
			n.Stopping()
			for _, want := range []string{"READY=1", "STATUS=watches eth0 and more", "WATCHDOG=1", "WATCHDOG=1", "RELOADING=1\nMONOTONIC_USEC=", "STOPPING=1"} {
				if got := heard(t, c); got != want && (!strings.HasSuffix(want, "=") || !strings.HasPrefix(got, want)) {
					t.Errorf("the manager heard %q, want %q", got, want)
				}
			}
		})
	}
}

func TestNotifierWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := NewNotifier()
	if err != nil {
		t.Fatal(err)
	}
	n.Ready()
	n.Reloading()
	n.Stopping()
	n.Status("x")
	n.Alive(time.Unix(1e9, 0))
}

func TestNotifierIsNotOurs(t *testing.T) {
	t.Run("nobody listens", func(t *testing.T) {
		t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
		if _, err := NewNotifier(); err == nil || !strings.Contains(err.Error(), "NOTIFY_SOCKET") {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("watchdog of another process", func(t *testing.T) {
		c := manager(t, filepath.Join(t.TempDir(), "notify"))
		t.Setenv("WATCHDOG_USEC", "1000000")
		t.Setenv("WATCHDOG_PID", "1")
		n, err := NewNotifier()
		if err != nil {
			t.Fatal(err)
		}
		n.Alive(time.Unix(1e9, 0))
		n.Ready()
		if got := heard(t, c); got != "READY=1" {
			t.Errorf("the manager heard %q", got)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		manager(t, filepath.Join(t.TempDir(), "notify"))
		t.Setenv("WATCHDOG_USEC", "soon")
		if _, err := NewNotifier(); err == nil || !strings.Contains(err.Error(), `"soon"`) {
			t.Errorf("err = %v", err)
		}
	})
}
