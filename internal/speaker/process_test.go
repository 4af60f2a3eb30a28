package speaker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

// processConfig is what a speaker in a process of its own is told by a test.
type processConfig struct {
	Socket, Journal string
	OnStop          OnStop
	Peers           []Peer
	RouterID        netip.Addr
	ListenPort      int
	Crash           bool          // end at once with an error
	Hang            time.Duration // stop the process after so long
}

func (c processConfig) env(t testing.TB) []string {
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return append(os.Environ(), "SPEAKER_TEST_PROCESS="+string(b))
}

// testProcess is `controller speaker` for tests.
func testProcess(text string) int {
	var c processConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if c.Crash {
		return 3
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if c.Hang > 0 {
		time.AfterFunc(c.Hang, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) })
	}
	if c.ListenPort == 0 {
		c.ListenPort = -1
	}
	if !c.RouterID.IsValid() {
		c.RouterID = netip.MustParseAddr("10.66.0.1")
	}
	err := Run(ctx, Options{
		Socket: c.Socket, Journal: c.Journal, Version: "child", ASN: 65000, RouterID: c.RouterID,
		ListenPort: c.ListenPort, OnStop: c.OnStop, LongLived: time.Minute, Peers: c.Peers, Safety: testLimits(),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
