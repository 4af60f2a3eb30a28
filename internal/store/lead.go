package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Lead campaigns until ctx ends; then it returns nil. While this controller leads it calls fn with the Term, and fn's
// ctx ends when leadership is lost or may be. fn is to return then; when it returns earlier, the controller resigns.
// Either way it campaigns again, after a pause that grows while terms are short.
func (s *Store) Lead(ctx context.Context, fn func(ctx context.Context, t *Term) error) error {
	said := ""
	for failed := 0; ; {
		began := time.Now()
		led, err := s.leadOnce(ctx, fn)
		switch {
		case ctx.Err() != nil:
			return nil
		case s.ctx.Err() != nil:
			return s.ended("lead")
		case led && time.Since(began) > backoffMax:
			failed, said = 0, ""
		}
		if err != nil && said != err.Error() { // once, not at every attempt
			s.log.Warn("campaigning again", "led", led, "err", err)
			said = err.Error()
		}
		pause(ctx, backoff(failed))
		failed++
	}
}

// leadOnce campaigns once, and leads if elected.
func (s *Store) leadOnce(ctx context.Context, fn func(context.Context, *Term) error) (led bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })()

	if err := s.synchronised(ctx); err != nil {
		return false, err
	}
	session, err := s.session(ctx)
	if err != nil {
		return false, err
	}
	defer s.endSession(session)
	// The session ends when its lease was not renewed for its time: whoever campaigns or leads with it must stop.
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-session.Done():
			cancel(fmt.Errorf("%w: its lease ended, for it was not renewed within %s", ErrDeposed, s.opts.LeaseTTL))
		case <-stop:
		}
	}()

	me, err := json.Marshal(candidate{Name: s.opts.Name, Address: s.opts.Address})
	if err != nil {
		return false, err
	}
	election := concurrency.NewElection(session, keyElection)
	if err := election.Campaign(ctx, string(me)); err != nil {
		return false, fmt.Errorf("campaign: %w", errors.Join(err, context.Cause(ctx)))
	}
	t := &Term{s: s, key: election.Key(), rev: election.Rev(), end: cancel}
	if err := t.begin(ctx); err != nil {
		return false, err
	}
	s.m.leading.Set(1)
	defer s.m.leading.Set(0)
	s.log.Info("leading", "term", t.number)
	guards := make(chan struct{}, 2)
	go func() { t.guard(ctx); guards <- struct{}{} }()
	go func() { t.prune(ctx); guards <- struct{}{} }()

	err = fn(ctx, t)

	why := context.Cause(ctx)
	cancel(nil)
	<-guards
	<-guards
	s.log.Info("leading no more", "term", t.number, "cause", why, "err", err)
	return true, err
}

// synchronised waits until the view follows etcd.
func (s *Store) synchronised(ctx context.Context) error {
	changed, cancel := s.subscribe()
	defer cancel()
	for s.published.Load() == nil || s.health.failing(partWatch) {
		again := time.NewTimer(backoffMax)
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return context.Cause(ctx)
		}
		again.Stop()
	}
	return nil
}

// session takes a lease and keeps it alive until endSession, or until it is lost.
func (s *Store) session(ctx context.Context) (*concurrency.Session, error) {
	ttl := int64((s.opts.LeaseTTL + time.Second - 1) / time.Second)
	gctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	lease, err := s.client.Grant(gctx, ttl)
	if err != nil {
		return nil, s.unavailable("take a lease", err)
	}
	// Not with ctx: the session must outlive it, to resign.
	session, err := concurrency.NewSession(s.client, concurrency.WithLease(lease.ID), concurrency.WithTTL(int(ttl)))
	if err != nil {
		return nil, s.unavailable("keep a lease alive", err)
	}
	if session == nil {
		return nil, s.unavailable("keep a lease alive", errors.New("no answer"))
	}
	return session, nil
}

// endSession revokes the lease, which removes our key from the election, so that the next leader need not wait.
func (s *Store) endSession(session *concurrency.Session) {
	session.Orphan()
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Timeout)
	defer cancel()
	if _, err := s.client.Revoke(ctx, session.Lease()); err != nil && !isLeaseGone(err) && s.ctx.Err() == nil {
		s.log.Warn("could not resign: the next leader waits for the end of the lease", "err", err)
	}
}

// begin numbers the term and says that it began. It clears the mark of a commit that a predecessor left unfinished.
func (t *Term) begin(ctx context.Context) error {
	rctx, cancel := context.WithTimeout(ctx, t.s.opts.Timeout)
	defer cancel()
	since := t.s.seen.get()
	r, err := t.s.client.Txn(rctx).Then(clientv3.OpGet(keyTerm), clientv3.OpGet(keyCommit)).Commit()
	if err != nil {
		return t.s.unavailable("begin a term", err)
	}
	if err := t.s.seen.check(r.Header, since); err != nil {
		return t.s.rewound(err)
	}
	var last termRecord
	for _, kv := range r.Responses[0].GetResponseRange().Kvs {
		if err := decodeStrict(kv.Value, &last); err != nil {
			t.s.log.Error("record of the last term cannot be read: the clock numbers the next", "key", keyTerm, "err", err)
		}
	}
	for _, kv := range r.Responses[1].GetResponseRange().Kvs {
		var c commitRecord
		err := decodeStrict(kv.Value, &c)
		t.s.log.Error("an earlier leader left a change half written: this one decides on what it finds",
			"term", c.Term, "part", c.Part, "parts", c.Parts, "err", err)
	}
	now := time.Now()
	t.number = nextTerm(last.Number, now)
	value, err := json.Marshal(termRecord{
		Number: t.number, Name: t.s.opts.Name, Address: t.s.opts.Address, Key: t.key, Created: t.rev, Began: now.UTC(),
	})
	if err != nil {
		return err
	}
	_, err = t.txn(ctx, nil, []clientv3.Op{clientv3.OpPut(keyTerm, string(value)), clientv3.OpDelete(keyCommit)})
	return err
}

// nextTerm numbers a term: higher than the last one, and not below the clock in seconds, so that a speaker whose journal
// is older than a lost data directory still takes the new leader's word.
func nextTerm(last uint64, now time.Time) uint64 { return max(last+1, uint64(max(now.Unix(), 0))) }

// guard ends the term as soon as the view shows that our key is gone, without waiting for the lease.
func (t *Term) guard(ctx context.Context) {
	changed, cancel := t.s.subscribe()
	defer cancel()
	for {
		// A view from before our election says nothing.
		if p := t.s.published.Load(); p != nil && p.term.Number >= t.number && p.leader != t.key {
			t.end(fmt.Errorf("%w: its key in the election is gone", ErrDeposed))
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func isLeaseGone(err error) bool { return errors.Is(err, rpctypes.ErrLeaseNotFound) }
func isDeadline(err error) bool  { return status.Code(err) == codes.DeadlineExceeded }
func isCompacted(err error) bool { return errors.Is(err, rpctypes.ErrCompacted) }
