package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// embeddedQuota bounds the embedded database. 10,000 mitigations are 10 MB; the rest is room for history until it is
// compacted.
const embeddedQuota = 512 << 20

// embedded is an etcd of one member in this process. It has no listener: its only client calls it directly, so that
// nothing is reachable from the network, or from another process.
type embedded struct {
	etcd *embed.Etcd
	lock *os.File // holds an exclusive flock for as long as the process lives
	dir  string
}

// startEmbedded starts etcd on o.DataDir, or says who else uses the directory.
func startEmbedded(ctx context.Context, o Options) (*embedded, error) {
	fail := func(err error) (*embedded, error) {
		return nil, fmt.Errorf("store: embedded etcd in %s: %w", o.DataDir, err)
	}
	dir := filepath.Join(o.DataDir, "etcd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	lock, err := lockDir(o.DataDir)
	if err != nil {
		return fail(err)
	}
	e := &embedded{lock: lock, dir: dir}
	// etcd names itself by URLs even where it listens on none.
	self := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg := embed.NewConfig()
	cfg.Name = "controller"
	cfg.Dir = dir
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.ListenClientHttpUrls, cfg.ListenMetricsUrls = nil, nil, nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{self}, []url.URL{self}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.InitialClusterToken = "trafficmonitor"
	cfg.EnableGRPCGateway = false
	cfg.EnablePprof = false
	// A single member elects itself; short ticks make that, and the shortest lease, short.
	cfg.TickMs, cfg.ElectionMs = 50, 250
	// History is kept for watchers that lag, minutes at most; then it is garbage.
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, "2m"
	cfg.QuotaBackendBytes = o.quota
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 5000, 1000
	cfg.MaxSnapFiles, cfg.MaxWalFiles = 2, 2
	cfg.BootstrapDefragThresholdMegabytes = 64
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapToSlog(o.Log))

	if e.etcd, err = embed.StartEtcd(cfg); err != nil {
		return fail(errors.Join(fmt.Errorf("start: %w", err), lock.Close()))
	}
	slow := time.NewTimer(time.Minute)
	defer slow.Stop()
	select {
	case <-e.etcd.Server.ReadyNotify():
		return e, nil
	case <-e.etcd.Server.StopNotify():
		err = errors.New("it ended while starting: see its log lines")
	case <-slow.C:
		err = errors.New("it is not ready after a minute: look at the disk's latency and errors")
	case <-ctx.Done():
		err = ctx.Err()
	}
	return fail(errors.Join(err, e.stop()))
}

// client returns a client that calls the server without a socket between.
func (e *embedded) client() *clientv3.Client { return v3client.New(e.etcd.Server) }

// defragment gives the free pages of the database back to the file system. The in-process client cannot: its
// maintenance server panics on it (etcd 3.6).
func (e *embedded) defragment() error { return e.etcd.Server.Backend().Defrag() }

func (e *embedded) stop() error {
	e.etcd.Close()
	return e.lock.Close()
}

// lockDir takes dir for this process alone. The lock goes with the process, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "store.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		by, _ := os.ReadFile(f.Name())
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		return nil, fmt.Errorf("the directory is in use by process %s: stop that controller, or give this one a data directory of its own",
			strings.TrimSpace(string(by)))
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// revokeDead revokes every lease. The lock says that nobody else can hold one: they are of a predecessor that was
// killed, and without this its leadership would outlive it by the time of its lease.
func (s *Store) revokeDead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	leases, err := s.client.Leases(ctx)
	if err != nil {
		return fmt.Errorf("store: list the leases of the predecessor: %w", err)
	}
	for _, l := range leases.Leases {
		if _, err := s.client.Revoke(ctx, l.ID); err != nil && !isLeaseGone(err) {
			return fmt.Errorf("store: revoke the lease of the predecessor: %w", err)
		}
	}
	if n := len(leases.Leases); n > 0 {
		s.log.Info("predecessor did not resign, revoked its leases", "leases", n)
	}
	return nil
}

// watchEmbedded ends the store when the embedded etcd ends by itself, so that the process can be started anew.
func (s *Store) watchEmbedded() {
	select {
	case <-s.ctx.Done():
	case <-s.embedded.etcd.Server.StopNotify():
		if s.ctx.Err() != nil {
			return
		}
		err := fmt.Errorf("%s ended by itself: restart the controller; if it ends again, look at its disk", s.source())
		s.log.Error("embedded etcd ended", "err", err)
		s.health.set(partEmbedded, err)
		s.cancel(err)
	}
}
