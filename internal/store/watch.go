package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watch calls fn with the complete Snapshot now and after every change, until ctx ends; then it returns nil. It survives
// compaction, reconnects and outages of etcd, during which fn is not called. fn is never called concurrently, never with
// an older revision than before, and only with the latest: what changes while it runs becomes one call.
func (s *Store) Watch(ctx context.Context, fn func(Snapshot)) error {
	changed, cancel := s.subscribe()
	defer cancel()
	var last int64
	for first := true; ; {
		if p := s.published.Load(); p != nil && p.whole && (first || p.Revision > last) {
			first, last = false, p.Revision
			s.m.notify.Observe(time.Since(p.at).Seconds())
			fn(p.Snapshot)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		case <-s.ctx.Done():
			return s.ended("watch")
		}
	}
}

// ended is the error of whoever still uses the store when it ended.
func (s *Store) ended(what string) error {
	if err := context.Cause(s.ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("store: %s: %w: %w", what, ErrClosed, err)
	}
	return fmt.Errorf("store: %s: %w", what, ErrClosed)
}

// Limits of the retries after a failed read or watch.
const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 2 * time.Second
)

// backoff is how long to wait before attempt n, with jitter so that controllers do not come back in step.
func backoff(n int) time.Duration {
	d := min(backoffMin<<min(n, 10), backoffMax)
	return d/2 + rand.N(d/2)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// follow keeps the view in step with etcd until the store is closed: a full read, then events; and again from the full
// read when the events break off.
func (s *Store) follow() {
	said := ""
	for failed := 0; s.ctx.Err() == nil; {
		began := time.Now()
		err := s.followOnce()
		if s.ctx.Err() != nil {
			return
		}
		s.health.set(partWatch, err)
		if time.Since(began) > backoffMax {
			failed, said = 0, ""
		}
		s.m.resyncs.WithLabelValues(resyncReason(err)).Inc()
		if said != err.Error() { // once, not at every attempt
			s.log.Warn("lost the view of etcd, reading it again until it is back", "err", err)
			said = err.Error()
		}
		select { // of an answer before the failure
		case <-s.answers:
		default:
		}
		wait, cancel := context.WithTimeout(s.ctx, backoff(failed))
		select {
		case <-s.answers:
		case <-wait.Done():
		}
		cancel()
		failed++
	}
}

// Why the view was read again: values of a metric label.
func resyncReason(err error) string {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return "compacted"
	case errors.Is(err, errRewound):
		return "rewound"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	}
	return "watch_ended"
}

var errRewound = errors.New("these are not the records seen before")

// newest remembers what etcd said last: which cluster it is, and the highest revision.
type newest struct {
	mu       sync.Mutex
	cluster  uint64 // guarded by mu; 0 before the first answer
	revision int64  // guarded by mu
}

func (n *newest) get() (revision int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.revision
}

// check takes in the header of a linearizable answer to a question asked after since was the newest revision. Such an
// answer is never older, unless etcd was restored from a backup or replaced behind its address. A watch does not
// notice that: it waits in silence for revisions to come.
func (n *newest) check(h *pb.ResponseHeader, since int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case h.Revision < since:
		return fmt.Errorf("%w: the revision went back from %d to %d", errRewound, since, h.Revision)
	case n.cluster != 0 && n.cluster != h.ClusterId:
		return fmt.Errorf("%w: the cluster is %x, was %x", errRewound, h.ClusterId, n.cluster)
	}
	n.cluster, n.revision = h.ClusterId, max(n.revision, h.Revision)
	return nil
}

// saw takes in the revision of an event.
func (n *newest) saw(revision int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.revision = max(n.revision, revision)
}

// rewound says what to do about errRewound.
func (s *Store) rewound(err error) error {
	return fmt.Errorf("%w: %s was restored from a backup or replaced; nothing is decided until every controller is restarted, "+
		"which makes it go on with what is there now", err, s.source())
}

// followOnce reads everything, then follows the events until they break off. The error says why.
func (s *Store) followOnce() error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()

	rctx, rcancel := context.WithTimeout(ctx, s.opts.Timeout)
	since := s.seen.get()
	all, err := s.client.Get(rctx, keyRoot, clientv3.WithPrefix())
	rcancel()
	if err != nil {
		return s.unavailable("read all records", err)
	}
	if err := s.seen.check(all.Header, since); err != nil {
		return s.rewound(err)
	}
	v := newView()
	for _, kv := range all.Kvs {
		v.put(kv)
	}
	v.revision, v.synced = all.Header.Revision, all.Header.Revision
	s.health.set(partWatch, nil) // before what wakes those who wait for it
	s.show(v)

	// With a required leader a member cut off from its cluster ends the watch, rather than keeping silent.
	events := gather(ctx, s.client.Watch(clientv3.WithRequireLeader(ctx), keyRoot, clientv3.WithPrefix(), clientv3.WithRev(v.revision+1)))
	for {
		select {
		case batch, ok := <-events:
			if !ok {
				return errors.New("watch of etcd ended")
			}
			for _, r := range batch {
				if err := v.follow(r); err != nil {
					return err
				}
			}
			s.seen.saw(v.revision)
			s.show(v)
		case <-s.rewind:
			return s.rewound(errRewound)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gather passes on, at each receive, everything that has arrived since the last: a burst becomes one snapshot.
func gather(ctx context.Context, in clientv3.WatchChan) <-chan []clientv3.WatchResponse {
	out := make(chan []clientv3.WatchResponse)
	go func() {
		defer close(out)
		var waiting []clientv3.WatchResponse
		for in != nil || len(waiting) > 0 {
			to := out
			if len(waiting) == 0 {
				to = nil
			}
			select {
			case r, ok := <-in:
				if !ok {
					in = nil
					continue
				}
				waiting = append(waiting, r)
			case to <- waiting:
				waiting = nil
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// follow takes in the events of one response.
func (v *view) follow(r clientv3.WatchResponse) error {
	if err := r.Err(); err != nil {
		return fmt.Errorf("watch of etcd: %w", err)
	}
	if r.IsProgressNotify() {
		v.synced = max(v.synced, r.Header.Revision)
	}
	for _, e := range r.Events {
		switch e.Type {
		case mvccpb.PUT:
			v.put(e.Kv)
		case mvccpb.DELETE:
			v.remove(string(e.Kv.Key))
		}
		v.revision = max(v.revision, e.Kv.ModRevision)
	}
	return nil
}

// show publishes the view, and tells an engineer what is new and wrong in it.
func (s *Store) show(v *view) {
	was := s.published.Load()
	p := v.publish(time.Now())
	s.publish(p)
	known := map[string]string{}
	if was != nil {
		for _, u := range was.Unreadable {
			known[u.Key] = u.Err.Error()
		}
	}
	for _, u := range p.Unreadable {
		if known[u.Key] != u.Err.Error() {
			s.log.Error("record cannot be read: it is left out, and written by a newer version or damaged; delete it or upgrade", "key", u.Key, "err", u.Err)
		}
	}
	if was == nil || was.term.Number != p.term.Number || was.led != p.led {
		if p.led && (was == nil || was.term.Number != p.term.Number) {
			s.m.termChanges.Inc()
		}
		s.log.Info("leadership", "led", p.led, "leader", p.term.Name, "term", p.term.Number)
	}
}
