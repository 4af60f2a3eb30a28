package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

// Change is what one Commit writes. A key may appear in it once.
type Change struct {
	Put         []mitigation.Mitigation
	Holds       []mitigation.Hold
	DeleteHolds []netip.Prefix
	Delete      []string // IDs of mitigations
	SetFreeze   bool     // writes Freeze; nil lifts it
	Freeze      *mitigation.Freeze
	Freezes     []mitigation.Freeze // of groups
	Unfreeze    []string            // groups whose freeze is lifted
}

// Limits of one transaction: below etcd's default of 128 operations and of 1.5 MiB for the request.
const (
	maxOps   = 120
	maxBytes = 1 << 20
)

// Term is one span of leadership. Its methods may be called concurrently; commits go one after the other.
type Term struct {
	s      *Store
	number uint64
	key    string // of ours in the election
	rev    int64  // create revision of key: the fence
	end    context.CancelCauseFunc

	mu sync.Mutex // orders commits
}

// Number tells terms apart: it is higher than that of every earlier leader, over restarts too.
func (t *Term) Number() uint64 { return t.number }

// Load reads all records from etcd. Records that cannot be read are treated as in a Snapshot.
func (t *Term) Load(ctx context.Context) (mitigation.Records, error) {
	ctx, cancel := context.WithTimeout(ctx, t.s.opts.Timeout)
	defer cancel()
	all, err := t.s.client.Get(ctx, keyRoot, clientv3.WithPrefix())
	if err != nil {
		return mitigation.Records{}, t.s.unavailable("load", err)
	}
	v := newView()
	for _, kv := range all.Kvs {
		v.put(kv)
	}
	v.open = nil // a commit of ours that broke off: the truth is what is there
	return v.publish(time.Now()).Records, nil
}

// op is one operation of a change with its size.
type op struct {
	op   clientv3.Op
	size int
}

// Commit writes the change if this controller still leads, and returns the revision at which Watch shows it.
// A change of more than about 120 records, or 1 MiB, is written in parts: first the freezes and the holds, then Put in
// its order, then the deletions. No watcher is shown anything of it before the last part is in.
//
// ErrDeposed: another controller leads, or may. ErrInvalid, ErrTooLarge: nothing was written. ErrUnavailable: etcd did
// not answer within the timeout, and whether the change was written is unknown. When part of a change was written and
// the rest was not, the term ends, for the next one has to decide anew on what it finds; the error says how much is in.
// An empty change only asks whether this controller still leads.
func (t *Term) Commit(ctx context.Context, c Change) (revision int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	began := time.Now()
	revision, err = t.commit(ctx, c)
	t.s.m.commit.Observe(time.Since(began).Seconds())
	t.s.m.commits.WithLabelValues(commitResult(err)).Inc()
	return revision, err
}

func commitResult(err error) string {
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, ErrDeposed):
		return resultDeposed
	case errors.Is(err, ErrInvalid):
		return resultInvalid
	case errors.Is(err, ErrTooLarge):
		return resultTooLarge
	}
	return resultUnavailable
}

func (t *Term) commit(ctx context.Context, c Change) (int64, error) {
	ops, err := c.ops()
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	batches := split(ops)
	if len(batches) > 1 {
		t.s.m.split.Inc()
	}
	var revision int64
	for i, batch := range batches {
		if len(batches) > 1 {
			batch = append(batch, mark(commitRecord{Term: t.number, Part: i + 1, Parts: len(batches)}))
		}
		revision, err = t.txn(ctx, nil, batch)
		if err == nil {
			continue
		}
		if len(batches) > 1 && (i > 0 || !errors.Is(err, ErrDeposed)) {
			err = fmt.Errorf("part %d of %d: %w", i+1, len(batches), err)
			t.end(fmt.Errorf("a commit broke off: %w", err))
		}
		return 0, fmt.Errorf("commit: %w", err)
	}
	return revision, nil
}

// mark returns the operation that says that a commit of several parts is under way, or with the last part that it is
// no more.
func mark(c commitRecord) clientv3.Op {
	if c.Part == c.Parts {
		return clientv3.OpDelete(keyCommit)
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // three numbers
	}
	return clientv3.OpPut(keyCommit, string(b))
}

// txn makes one transaction that takes place only while our key in the election is the one we won with.
func (t *Term) txn(ctx context.Context, also []clientv3.Cmp, ops []clientv3.Op) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, t.s.opts.Timeout)
	defer cancel()
	fence := clientv3.Compare(clientv3.CreateRevision(t.key), "=", t.rev)
	// In case of refusal, the key tells whether it was the fence.
	r, err := t.s.client.Txn(ctx).If(append([]clientv3.Cmp{fence}, also...)...).Then(ops...).
		Else(clientv3.OpGet(t.key, clientv3.WithKeysOnly())).Commit()
	switch {
	case err != nil && errors.Is(err, rpctypes.ErrRequestTooLarge):
		return 0, fmt.Errorf("%w: %w; raise --max-request-bytes of %s to its default of 1.5 MiB or above", ErrTooLarge, err, t.s.source())
	case err != nil && errors.Is(context.Cause(ctx), ErrDeposed):
		return 0, context.Cause(ctx)
	case err != nil:
		return 0, t.s.unavailable("transaction", err)
	case r.Succeeded:
		return r.Header.Revision, nil
	}
	if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 && kvs[0].CreateRevision == t.rev {
		return 0, errChanged
	}
	t.end(ErrDeposed)
	return 0, fmt.Errorf("%w: term %d is over; the new leader decides", ErrDeposed, t.number)
}

// errChanged says that we lead, but a key is not as another condition wants it.
var errChanged = errors.New("changed meanwhile")

// ops checks the change and returns its operations in the order in which they are to be applied.
func (c Change) ops() ([]op, error) {
	var out []op
	var errs []error
	seen := map[string]bool{}
	add := func(key string, value []byte, err error, make func() clientv3.Op) {
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%w: %s: %w", ErrInvalid, key, err))
		case seen[key]:
			errs = append(errs, fmt.Errorf("%w: %s is in it twice", ErrInvalid, key))
		case len(key)+len(value) > maxBytes-1024:
			errs = append(errs, fmt.Errorf("%w: %s has %d octets, %d are possible: use fewer routes", ErrTooLarge, key, len(value), maxBytes-1024))
		default:
			out = append(out, op{make(), len(key) + len(value) + 16})
		}
		seen[key] = true
	}
	put := func(key string, value []byte, err error) {
		add(key, value, err, func() clientv3.Op { return clientv3.OpPut(key, string(value)) })
	}
	remove := func(key string, err error) {
		add(key, nil, err, func() clientv3.Op { return clientv3.OpDelete(key) })
	}
	switch {
	case c.SetFreeze && c.Freeze != nil:
		b, err := encodeFreeze("", *c.Freeze)
		put(keyFreeze, b, err)
	case c.SetFreeze:
		remove(keyFreeze, nil)
	}
	for _, f := range c.Freezes {
		b, err := encodeFreeze(f.Group, f)
		put(freezeKey(f.Group), b, errors.Join(checkGroup(f.Group), err))
	}
	for _, g := range c.Unfreeze {
		remove(freezeKey(g), checkGroup(g))
	}
	for _, h := range c.Holds {
		b, err := encodeHold(h)
		put(holdKey(h.Target), b, err)
	}
	for _, m := range c.Put {
		b, err := encodeMitigation(m)
		put(mitigationKey(m.ID), b, err)
	}
	for _, p := range c.DeleteHolds {
		remove(holdKey(p), checkPrefix(p))
	}
	for _, id := range c.Delete {
		var err error
		if id == "" {
			err = errors.New("no id")
		}
		remove(mitigationKey(id), err)
	}
	return out, errors.Join(errs...)
}

// split cuts the operations into transactions. There is always one, if only for the fence.
func split(ops []op) [][]clientv3.Op {
	out := [][]clientv3.Op{nil}
	size := 0
	for _, o := range ops {
		last := len(out) - 1
		if len(out[last]) == maxOps || size+o.size > maxBytes {
			out, size = append(out, nil), 0
			last++
		}
		out[last] = append(out[last], o.op)
		size += o.size
	}
	return out
}
