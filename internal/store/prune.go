package store

import (
	"context"
	"errors"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

// prune removes, while we lead, what ended longer ago than Keep.
func (t *Term) prune(ctx context.Context) {
	every := min(max(t.s.opts.Keep/10, 100*time.Millisecond), time.Minute)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := t.s.pruneLog(ctx, time.Now(), t.s.opts.LogKeep, int64(t.s.opts.LogMost)); err != nil && ctx.Err() == nil {
			t.s.log.Warn("old lines of the shared audit record could not be removed, trying again", "err", err, "in", every)
		}
		if p := t.s.published.Load(); p != nil && p.whole {
			if err := t.pruneOnce(ctx, old(p.Records, time.Now().Add(-t.s.opts.Keep), t.s.opts.KeepMost)); err != nil && ctx.Err() == nil {
				t.s.log.Warn("old mitigations could not be removed, trying again", "err", err, "in", every)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// old returns the keys of what ended before then, and of the oldest of what ended later when there are more than most.
func old(r mitigation.Records, then time.Time, most int) []string {
	var ended []mitigation.Mitigation
	for _, m := range r.Mitigations {
		if m.State == mitigation.Ended || m.State == mitigation.Refused {
			ended = append(ended, m)
		}
	}
	slices.SortStableFunc(ended, func(a, b mitigation.Mitigation) int { return endOf(b).Compare(endOf(a)) }) // latest first
	var keys []string
	for i, m := range ended {
		if i >= most || endOf(m).Before(then) {
			keys = append(keys, mitigationKey(m.ID))
		}
	}
	for _, h := range r.Holds {
		if h.Until.Before(then) {
			keys = append(keys, holdKey(h.Target))
		}
	}
	return keys
}

// endOf is when m ended; one that was refused never began.
func endOf(m mitigation.Mitigation) time.Time {
	if m.Ended.IsZero() {
		return m.Created
	}
	return m.Ended
}

// pruneOnce removes the keys, a batch at a time, each batch only if none of it changed meanwhile.
func (t *Term) pruneOnce(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		batch := keys[:min(len(keys), maxOps/2)]
		keys = keys[len(batch):]
		n, err := t.pruneBatch(ctx, batch)
		switch {
		case errors.Is(err, errChanged):
			continue // the next round sees it
		case err != nil:
			return err
		}
		t.s.m.pruned.Add(float64(n))
	}
	return nil
}

func (t *Term) pruneBatch(ctx context.Context, keys []string) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	gets := make([]clientv3.Op, len(keys))
	for i, k := range keys {
		gets[i] = clientv3.OpGet(k)
	}
	rctx, cancel := context.WithTimeout(ctx, t.s.opts.Timeout)
	defer cancel()
	r, err := t.s.client.Txn(rctx).Then(gets...).Commit()
	if err != nil {
		return 0, t.s.unavailable("prune", err)
	}
	then := time.Now().Add(-t.s.opts.Keep)
	var same []clientv3.Cmp
	var ops []clientv3.Op
	for _, x := range r.Responses {
		for _, kv := range x.GetResponseRange().Kvs {
			v := newView()
			v.put(kv)
			key := string(kv.Key)
			if len(old(v.publish(then).Records, then, 0)) == 1 { // still one that may go
				same = append(same, clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision))
				ops = append(ops, clientv3.OpDelete(key))
			}
		}
	}
	if len(ops) == 0 {
		return 0, nil
	}
	_, err = t.txn(ctx, same, ops)
	return len(ops), err
}
