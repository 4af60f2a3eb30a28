package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// part is something that must work for the store to be healthy.
type part int

const (
	partWatch    part = iota // the view follows etcd
	partProbe                // etcd answers
	partSpace                // etcd has room for writes
	partEmbedded             // the embedded etcd runs
	parts
)

// health collects what is wrong.
type health struct {
	mu    sync.Mutex
	wrong [parts]error // guarded by mu; nil is well
}

func (h *health) set(p part, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrong[p] = err
}

func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.wrong[:]...)
}

// How often etcd is asked whether it answers, and for its size and alarms.
const (
	probeEvery  = time.Second
	statusEvery = 30 * time.Second
)

// probe asks etcd whether it answers, until the store is closed. The view learns of an outage by silence only.
func (s *Store) probe() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	var asked time.Time
	for {
		s.probeOnce()
		if time.Since(asked) >= statusEvery || s.health.spaceless() {
			asked = time.Now()
			s.checkSpace()
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
	}
}

func (h *health) spaceless() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wrong[partSpace] != nil
}

// probeOnce makes one linearizable read, which needs a quorum.
func (s *Store) probeOnce() {
	ctx, cancel := context.WithTimeout(s.ctx, s.opts.Timeout)
	defer cancel()
	began, since := time.Now(), s.seen.get()
	r, err := s.client.Get(ctx, keyTerm, clientv3.WithKeysOnly())
	if s.ctx.Err() != nil {
		return
	}
	if err != nil {
		s.m.up.Set(0)
		err = s.why(err)
		if !s.health.failing(partProbe) {
			s.log.Error("etcd does not answer", "err", err, "action", s.advice())
		}
		s.health.set(partProbe, s.unavailable("probe", err))
		return
	}
	if err := s.seen.check(r.Header, since); err != nil {
		select {
		case s.rewind <- struct{}{}:
		default:
		}
	}
	s.m.probe.Observe(time.Since(began).Seconds())
	s.m.up.Set(1)
	if s.health.failing(partProbe) {
		s.log.Info("etcd answers again")
		s.hurry()
	}
	s.health.set(partProbe, nil)
}

func (h *health) failing(p part) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wrong[p] != nil
}

// checkSpace looks whether etcd refuses writes for want of space. The embedded one is helped at once; a shared one
// belongs to somebody.
func (s *Store) checkSpace() {
	ctx, cancel := context.WithTimeout(s.ctx, s.opts.Timeout)
	defer cancel()
	st, err := s.status(ctx)
	if err != nil {
		return // probe tells
	}
	s.m.dbSize.Set(float64(st.DbSize))
	s.m.dbUsed.Set(float64(st.DbSizeInUse))
	alarms, err := s.client.AlarmList(ctx)
	if err != nil {
		return
	}
	full := slices.ContainsFunc(alarms.Alarms, func(a *pb.AlarmMember) bool { return a.Alarm == pb.AlarmType_NOSPACE })
	switch {
	case !full:
		s.health.set(partSpace, nil)
	case s.embedded == nil:
		s.health.set(partSpace, fmt.Errorf("%s is out of space and refuses writes (alarm NOSPACE): compact, defragment and disarm it, "+
			"see https://etcd.io/docs/v3.6/op-guide/maintenance/#space-quota", s.source()))
	default:
		s.health.set(partSpace, fmt.Errorf("%s is at its quota of %d octets and refuses writes; it is being compacted", s.source(), s.opts.quota))
		if err := s.makeSpace(); err != nil {
			s.log.Error("etcd is out of space", "err", err, "action", s.advice())
			return
		}
		s.log.Warn("etcd was out of space: compacted, defragmented, writable again")
		s.health.set(partSpace, nil)
	}
}

func (s *Store) status(ctx context.Context) (*clientv3.StatusResponse, error) {
	endpoint := ""
	if eps := s.client.Endpoints(); len(eps) > 0 {
		endpoint = eps[0]
	}
	return s.client.Status(ctx, endpoint)
}

// makeSpace drops the history of the embedded etcd and gives the room back.
func (s *Store) makeSpace() error {
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	now, err := s.client.Get(ctx, keyTerm, clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("read the revision: %w", err)
	}
	if _, err := s.client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !isCompacted(err) {
		return fmt.Errorf("compact at %d: %w", now.Header.Revision, err)
	}
	if err := s.embedded.defragment(); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	if _, err := s.client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		return fmt.Errorf("disarm the alarm: %w", err)
	}
	return nil
}
