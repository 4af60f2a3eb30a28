// Package store keeps what must survive a controller in etcd: mitigations, holds and the freeze. It elects the leader,
// fences what a leader writes, and shows every controller the same records. It alone imports etcd.
//
// Without endpoints, etcd runs inside the process on local disk and listens on no socket at all; with endpoints the
// store is a client of a shared cluster. Behind the client there is one code path.
//
// # Keys
//
//	/trafficmonitor/v1/mitigations/ID   one mitigation, JSON
//	/trafficmonitor/v1/holds/PREFIX     one hold, JSON
//	/trafficmonitor/v1/freeze           the freeze of all automation, JSON; absent while it runs
//	/trafficmonitor/v1/freezes/GROUP    the freeze of a group of the policy, JSON
//	/trafficmonitor/v1/term             the last term that began, JSON
//	/trafficmonitor/v1/commit           present while a commit too big for one transaction is under way, JSON
//	/trafficmonitor/v1/leader/LEASE     candidates; the oldest leads
//	/trafficmonitor/log/v1/TIME/…       the audit record that controllers share, a line each: see [Store.AppendLog]
//
// # Records that cannot be read
//
// Decoding is strict. A record that is damaged, or that a newer version wrote, is left out of the [Snapshot] and listed
// in its Unreadable; the others are not affected. Nothing rewrites or prunes it: deleting its ID does.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
)

// Errors callers branch on.
var (
	// ErrDeposed says that this controller no longer leads: nothing of the change was written, or, of a change of
	// several parts, what comes after the parts the error counts.
	ErrDeposed = errors.New("this controller no longer leads")
	// ErrTooLarge says that a single record is larger than etcd accepts.
	ErrTooLarge = errors.New("record too large for etcd")
	// ErrInvalid says that a change contradicts itself or could not be read back. Nothing was written.
	ErrInvalid = errors.New("invalid change")
	// ErrUnavailable says that etcd did not answer in time. The outcome of the change is unknown: Load tells it.
	ErrUnavailable = errors.New("etcd is unavailable")
	// ErrClosed says that the store was closed or that its embedded etcd ended.
	ErrClosed = errors.New("store is closed")
)

// Defaults of Options.
const (
	DefaultLeaseTTL = 3 * time.Second
	DefaultTimeout  = 2 * time.Second
	DefaultKeep     = 7 * 24 * time.Hour
	DefaultKeepMost = 2000
	DefaultLogKeep  = 30 * 24 * time.Hour
	DefaultLogMost  = 10_000
)

// Options of a store.
type Options struct {
	Name      string   // of this controller, shown when it leads
	Address   string   // where this controller's API is reached, shown when it leads
	Endpoints []string // of a shared etcd; empty: embedded
	DataDir   string   // of the embedded etcd, created if absent, used by one process at a time
	TLS       *tls.Config

	LeaseTTL time.Duration // how long a leader that died leads on; rounded up to seconds, etcd's floor is 1–2 s
	Timeout  time.Duration // of one request to etcd
	Keep     time.Duration // how long ended mitigations are kept
	KeepMost int           // how many of them at most, the latest: they cost memory, and time at every change
	LogKeep  time.Duration // how long lines of the shared log are kept
	LogMost  int           // how many of them at most, the latest

	Log        *slog.Logger
	Registerer prometheus.Registerer

	quota int64 // of the embedded database in octets; tests
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Name == "" {
		errs = append(errs, errors.New("no name: give this controller one that no other has"))
	}
	if len(o.Endpoints) == 0 && o.DataDir == "" {
		errs = append(errs, errors.New("neither etcd endpoints nor a data directory: set one"))
	}
	if o.LeaseTTL < 0 || o.Timeout < 0 || o.Keep < 0 || o.KeepMost < 0 || o.LogKeep < 0 || o.LogMost < 0 {
		errs = append(errs, errors.New("a limit is negative"))
	}
	if o.LeaseTTL == 0 {
		o.LeaseTTL = DefaultLeaseTTL
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Keep == 0 {
		o.Keep = DefaultKeep
	}
	if o.KeepMost == 0 {
		o.KeepMost = DefaultKeepMost
	}
	if o.LogKeep == 0 {
		o.LogKeep = DefaultLogKeep
	}
	if o.LogMost == 0 {
		o.LogMost = DefaultLogMost
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	o.Log = o.Log.With("component", "store")
	if o.quota == 0 {
		o.quota = embeddedQuota
	}
	return o, errors.Join(errs...)
}

// Store is a connection to etcd with everything it holds in memory.
type Store struct {
	opts     Options
	log      *slog.Logger
	m        *metrics
	client   *clientv3.Client
	embedded *embedded // nil with a shared etcd

	ctx    context.Context // ends in Close
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup

	published atomic.Pointer[published] // nil until first synchronised
	seen      newest
	health    health
	rewind    chan struct{} // probe to follow: read again, this is other data
	answers   chan struct{} // to follow: etcd answers, do not wait with reading

	mu      sync.Mutex
	waiters map[chan struct{}]struct{} // guarded by mu; each is told that published changed
	closed  bool                       // guarded by mu
}

// Open connects to etcd, or starts it, and begins to follow its records. It returns once the embedded etcd serves;
// it does not wait for a shared one, which Healthy tells about.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s := &Store{opts: o, log: o.Log, waiters: map[chan struct{}]struct{}{}, rewind: make(chan struct{}, 1), answers: make(chan struct{}, 1)}
	s.health.set(partWatch, errors.New("not yet synchronised with etcd"))
	if s.m, err = newMetrics(o.Registerer, s); err != nil {
		return nil, fmt.Errorf("store: register metrics: %w", err)
	}
	if len(o.Endpoints) == 0 {
		if s.embedded, err = startEmbedded(ctx, o); err != nil {
			return nil, err
		}
		s.client = s.embedded.client()
		if err := s.revokeDead(ctx); err != nil {
			return nil, errors.Join(err, s.client.Close(), s.embedded.stop())
		}
	} else if s.client, err = dial(o); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.tasks.Go(s.follow)
	s.tasks.Go(s.probe)
	if s.embedded != nil {
		s.tasks.Go(s.watchEmbedded)
	}
	return s, nil
}

// connectTimeout bounds one attempt to connect. gRPC's own 20 s and pauses of up to 2 minutes would keep a controller that
// was cut off for long away from etcd for as long again.
const connectTimeout = 2 * time.Second

// dial makes the client of a shared etcd. It connects in the background and reconnects by itself.
func dial(o Options) (*clientv3.Client, error) {
	if err := checkEndpoints(o); err != nil {
		return nil, err
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            o.Endpoints,
		TLS:                  o.TLS,
		DialTimeout:          o.Timeout,
		DialKeepAliveTime:    5 * time.Second, // etcd refuses pings more often than that
		DialKeepAliveTimeout: o.Timeout,
		PermitWithoutStream:  false,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: time.Second},
			MinConnectTimeout: connectTimeout,
		})},
		Logger: zapToDebug(o.Log),
	})
	if err != nil {
		return nil, fmt.Errorf("store: etcd client for %s: %w", strings.Join(o.Endpoints, ", "), err)
	}
	return c, nil
}

// checkEndpoints refuses what the client would silently do without TLS, and warns of what is not encrypted.
func checkEndpoints(o Options) error {
	var errs []error
	for _, e := range o.Endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			errs = append(errs, fmt.Errorf("store: etcd endpoint %q: write it as https://host:2379", e))
		case u.Scheme == "http" && o.TLS != nil:
			errs = append(errs, fmt.Errorf("store: etcd endpoint %q would not use the certificates that are configured: write https", e))
		case u.Scheme == "http" && !loopback(u.Hostname()):
			o.Log.Warn("etcd is reached without TLS: who is on the way can announce and withdraw routes", "endpoint", e)
		}
	}
	return errors.Join(errs...)
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// Close ends the store. Lead and Watch must have been asked to end before, through their contexts.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel(nil)
	done := make(chan struct{})
	go func() { s.tasks.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("store: close: %w", ctx.Err())
	}
	if cerr := s.client.Close(); cerr != nil && !errors.Is(cerr, context.Canceled) {
		err = errors.Join(err, fmt.Errorf("store: close etcd client: %w", cerr))
	}
	if s.embedded != nil {
		err = errors.Join(err, s.embedded.stop())
	}
	return err
}

// Leader tells who leads, where its API is reached and in which term; ok is false while nobody does, or while this
// store does not know.
func (s *Store) Leader() (name, address string, term uint64, ok bool) {
	p := s.published.Load()
	if p == nil || !p.led {
		return "", "", 0, false
	}
	return p.term.Name, p.term.Address, p.term.Number, true
}

// Healthy returns nil while the store reads and writes, else why not and what to do.
func (s *Store) Healthy() error { return s.health.err() }

// source names the etcd in words for errors.
func (s *Store) source() string {
	if s.embedded != nil {
		return "the embedded etcd in " + s.opts.DataDir
	}
	return "etcd at " + strings.Join(s.opts.Endpoints, ", ")
}

// advice says what an engineer can do when etcd does not answer.
func (s *Store) advice() string {
	if s.embedded != nil {
		return "announced routes stay until their deadline; look at the free space, the latency and the errors of the disk under " + s.opts.DataDir
	}
	return "announced routes stay until their deadline; look at the cluster with etcdctl --endpoints=" +
		strings.Join(s.opts.Endpoints, ",") + " endpoint status"
}

// unavailable wraps the error of a request that etcd did not answer.
func (s *Store) unavailable(what string, err error) error {
	return fmt.Errorf("%s: %w: %s did not answer: %w; %s", what, ErrUnavailable, s.source(), err, s.advice())
}

// subscribe returns a channel that is told when what is published changed. It holds one message, so that a burst
// becomes one.
func (s *Store) subscribe() (ch chan struct{}, cancel func()) {
	ch = make(chan struct{}, 1)
	s.mu.Lock()
	s.waiters[ch] = struct{}{}
	s.mu.Unlock()
	return ch, func() {
		s.mu.Lock()
		delete(s.waiters, ch)
		s.mu.Unlock()
	}
}

// publish makes p what everybody sees and tells them.
func (s *Store) publish(p *published) {
	s.published.Store(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.waiters {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
