package store

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// currentEvery is between two looks whether the view has come as far as etcd.
const currentEvery = 50 * time.Millisecond

// Current returns the term and the revision of a Snapshot that holds everything committed before the call: etcd was asked,
// with a quorum, how far it is, and the view has come that far. It returns an error when that did not come about before ctx
// ended: a view that follows nothing any more looks like one of records that do not change.
func (s *Store) Current(ctx context.Context) (term uint64, revision int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	since := s.seen.get()
	r, err := s.client.Get(ctx, keyTerm, clientv3.WithKeysOnly())
	if err != nil {
		return 0, 0, s.unavailable("ask how far it is", err)
	}
	if err := s.seen.check(r.Header, since); err != nil {
		return 0, 0, s.rewound(err)
	}
	s.hurry()
	changed, unsubscribe := s.subscribe()
	defer unsubscribe()
	tick := time.NewTicker(currentEvery)
	defer tick.Stop()
	for {
		if p := s.published.Load(); p != nil && p.whole && p.synced >= r.Header.Revision {
			return p.Term, p.Revision, nil
		}
		// The records may be older than etcd's revision and have no event that says so: etcd says on the watch how far it is.
		// It says nothing while the watch is behind, so it is asked again.
		if err := s.client.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil && ctx.Err() == nil {
			s.log.Debug("etcd is not asked how far the watch is", "err", err)
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return 0, 0, s.unavailable("wait until all records up to its present revision were seen", ctx.Err())
		}
	}
}

// hurry ends a pause before the next attempt to read the view, for etcd answers.
func (s *Store) hurry() {
	select {
	case s.answers <- struct{}{}:
	default:
	}
}
