package store

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// keyLog is outside of keyRoot, so that what is only kept for reading wakes no watcher.
//
//	/trafficmonitor/log/v1/TIME/CONTROLLER/N   one line of the shared log; TIME in nanoseconds since 1970, 19 digits
const keyLog = "/trafficmonitor/log/v1/"

// logPage is how many lines are read at once.
const logPage = 500

func logKey(at time.Time) string { return fmt.Sprintf("%s%019d", keyLog, max(at.UnixNano(), 0)) }

// logLine numbers lines, for two may have the same time.
var logLine atomic.Uint64

// AppendLog adds lines to the log that all controllers share, each at its time. Every controller may, whether it leads or
// not. An error says that some, or all, may be missing.
func (s *Store) AppendLog(ctx context.Context, at []time.Time, lines [][]byte) error {
	var ops []op
	for i, line := range lines {
		key := fmt.Sprintf("%s/%s/%d", logKey(at[i]), strings.ReplaceAll(s.opts.Name, "/", "_"), logLine.Add(1))
		if len(line) > maxBytes {
			return fmt.Errorf("append to the log: %w: a line of %d octets", ErrTooLarge, len(line))
		}
		ops = append(ops, op{clientv3.OpPut(key, string(line)), len(key) + len(line)})
	}
	for _, batch := range split(ops) {
		tctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
		_, err := s.client.Txn(tctx).Then(batch...).Commit()
		cancel()
		if err != nil {
			return s.unavailable("append to the log", err)
		}
	}
	return nil
}

// ReadLog calls each with the lines of the shared log from since on and before until, the newest first, until it returns
// false or none is left. A zero time is no bound. What the nearest member of etcd knows is enough, so that it answers
// without a quorum, too.
func (s *Store) ReadLog(ctx context.Context, since, until time.Time, each func(line []byte) bool) error {
	from, to := keyLog, clientv3.GetPrefixRangeEnd(keyLog)
	if !since.IsZero() {
		from = logKey(since)
	}
	if !until.IsZero() {
		to = logKey(until)
	}
	for from < to {
		tctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
		r, err := s.client.Get(tctx, from, clientv3.WithRange(to), clientv3.WithLimit(logPage), clientv3.WithSerializable(),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
		cancel()
		if err != nil {
			return s.unavailable("read the log", err)
		}
		for _, kv := range r.Kvs {
			if !each(kv.Value) {
				return nil
			}
		}
		if !r.More || len(r.Kvs) == 0 {
			return nil
		}
		to = string(r.Kvs[len(r.Kvs)-1].Key)
	}
	return nil
}

// pruneLog removes what is older than keep, and the oldest of what is more than most.
func (s *Store) pruneLog(ctx context.Context, now time.Time, keep time.Duration, most int64) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	removed, err := s.client.Delete(ctx, keyLog, clientv3.WithRange(logKey(now.Add(-keep))))
	if err != nil {
		return s.unavailable("prune the log", err)
	}
	s.m.logPruned.Add(float64(removed.Deleted))
	count, err := s.client.Get(ctx, keyLog, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return s.unavailable("prune the log", err)
	}
	s.m.logLines.Set(float64(min(count.Count, most)))
	if count.Count <= most {
		return nil
	}
	oldest, err := s.client.Get(ctx, keyLog, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(count.Count-most),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err != nil || len(oldest.Kvs) == 0 {
		return s.unavailable("prune the log", err)
	}
	removed, err = s.client.Delete(ctx, keyLog, clientv3.WithRange(string(oldest.Kvs[len(oldest.Kvs)-1].Key)+"\x00"))
	if err != nil {
		return s.unavailable("prune the log", err)
	}
	s.m.logPruned.Add(float64(removed.Deleted))
	return nil
}
