package store

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

// Snapshot is everything stored, at one revision. It is shared: read it, change nothing.
type Snapshot struct {
	// Revision grows with every change, as long as the data directory or the cluster lives.
	Revision int64
	// Term is that of the last leader. It grows from leader to leader, also over a lost data directory, so that
	// (Term, Revision) orders snapshots for good.
	Term    uint64
	Records mitigation.Records
	// Unreadable lists the records that could not be read, by key. An unreadable mitigation is missing from Records.
	// An unreadable hold or freeze, of all or of a group, stands there all the same, without an end: nothing damaged releases automation.
	Unreadable []Unreadable
}

// Unreadable is a record that could not be read. Deleting ID, or lifting the hold or the freeze, removes it.
type Unreadable struct {
	Key string
	ID  string // of the mitigation, or "" where it is none
	Err error
}

func (u Unreadable) String() string { return fmt.Sprintf("record %s cannot be read: %v", u.Key, u.Err) }

// published is a snapshot with what the store itself needs to know at that revision.
type published struct {
	Snapshot
	term   termRecord
	leader string    // key of the leader, "" for none
	led    bool      // leader is set and began term
	at     time.Time // when what caused it arrived
	// whole is false until a state outside any commit of several parts was seen: the Snapshot is empty then.
	whole bool
	// synced is the revision of etcd up to which every change of the records was seen; it is that of the Snapshot or higher,
	// for etcd has other keys.
	synced int64
	open   *commitRecord // the commit of several parts under way
}

// heldForever is the end of a hold whose end cannot be read.
var heldForever = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// view is the memory of the records as of one revision, built from a full read and then from events. One goroutine
// owns it. Slices handed out are never changed again.
type view struct {
	revision    int64
	synced      int64                   // see published
	mitigations []mitigation.Mitigation // sorted by ID
	holds       map[netip.Prefix]mitigation.Hold
	freeze      *mitigation.Freeze
	frozen      map[string]mitigation.Freeze // by group
	unreadable  map[string]Unreadable        // by key
	term        termRecord
	open        *commitRecord
	candidates  map[string]int64 // key to create revision

	changed map[string]*mitigation.Mitigation // since the last publish; nil is gone
	stale   bool                              // holds, frozen, unreadable: rebuild
	shown   published
}

func newView() *view {
	return &view{
		holds: map[netip.Prefix]mitigation.Hold{}, frozen: map[string]mitigation.Freeze{}, unreadable: map[string]Unreadable{}, candidates: map[string]int64{},
		changed: map[string]*mitigation.Mitigation{}, stale: true,
	}
}

// put takes in one key with its value.
func (v *view) put(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	var id string
	var err error
	switch {
	case strings.HasPrefix(key, keyMitigations):
		id = key[len(keyMitigations):]
		var m mitigation.Mitigation
		if m, err = decodeMitigation(id, kv.Value); err == nil {
			v.changed[id] = &m
		} else {
			v.changed[id] = nil
		}
	case strings.HasPrefix(key, keyHolds):
		err = v.putHold(key[len(keyHolds):], kv.Value)
	case key == keyFreeze:
		var f mitigation.Freeze
		f, err = readFreeze("", kv.Value)
		v.freeze = &f
	case strings.HasPrefix(key, keyFreezes):
		group := key[len(keyFreezes):]
		v.frozen[group], err = readFreeze(group, kv.Value)
		v.stale = true
	case key == keyTerm:
		var t termRecord
		if err = decodeStrict(kv.Value, &t); err == nil {
			v.term = t
		}
	case key == keyCommit:
		var c commitRecord
		if err = decodeStrict(kv.Value, &c); err == nil {
			v.open = &c
		}
	case strings.HasPrefix(key, keyLeader):
		v.candidates[key] = kv.CreateRevision
	default:
		err = fmt.Errorf("not a key of this version")
	}
	if err != nil {
		v.unreadable[key] = Unreadable{Key: key, ID: id, Err: err}
		v.stale = true
	} else if _, was := v.unreadable[key]; was {
		delete(v.unreadable, key)
		v.stale = true
	}
}

// readFreeze returns a freeze without an end where the record cannot be read.
func readFreeze(group string, value []byte) (mitigation.Freeze, error) {
	f, err := decodeFreeze(group, value)
	if err != nil {
		f = mitigation.Freeze{Group: group, Since: heldForever, Requester: "store", Reason: "the record of the freeze cannot be read: " + err.Error()}
	}
	return f, err
}

func (v *view) putHold(target string, value []byte) error {
	v.stale = true
	h, err := decodeHold(target, value)
	if err == nil {
		v.holds[h.Target] = h
		return nil
	}
	if p, perr := netip.ParsePrefix(target); perr == nil {
		v.holds[p] = mitigation.Hold{
			Target: p, Until: heldForever, Requester: "store",
			Reason: "the record of this hold cannot be read: " + err.Error(),
		}
	}
	return err
}

// remove takes in that a key is gone.
func (v *view) remove(key string) {
	switch {
	case strings.HasPrefix(key, keyMitigations):
		v.changed[key[len(keyMitigations):]] = nil
	case strings.HasPrefix(key, keyHolds):
		if p, err := netip.ParsePrefix(key[len(keyHolds):]); err == nil {
			delete(v.holds, p)
		}
		v.stale = true
	case key == keyFreeze:
		v.freeze = nil
	case strings.HasPrefix(key, keyFreezes):
		delete(v.frozen, key[len(keyFreezes):])
		v.stale = true
	case key == keyTerm:
		v.term = termRecord{}
	case key == keyCommit:
		v.open = nil
	case strings.HasPrefix(key, keyLeader):
		delete(v.candidates, key)
	}
	if _, was := v.unreadable[key]; was {
		delete(v.unreadable, key)
		v.stale = true
	}
}

// publish returns what is to be shown now. While a commit of several parts is under way that is the state before it:
// half a change is never shown. Who leads is always shown, for the next leader clears the mark.
func (v *view) publish(now time.Time) *published {
	if v.open != nil {
		v.shown.at, v.shown.open, v.shown.synced = now, v.open, v.synced
		v.lead(&v.shown)
		p := v.shown
		return &p
	}
	v.mergeMitigations()
	p := published{Snapshot: Snapshot{Revision: v.revision, Term: v.term.Number}, at: now, whole: true, synced: max(v.synced, v.revision)}
	p.Records.Mitigations = v.mitigations
	p.Records.Freeze = v.freeze
	if v.stale {
		p.Records.Holds = slices.SortedFunc(maps.Values(v.holds), func(a, b mitigation.Hold) int { return a.Target.Compare(b.Target) })
		p.Records.Frozen = slices.SortedFunc(maps.Values(v.frozen), func(a, b mitigation.Freeze) int { return cmp.Compare(a.Group, b.Group) })
		p.Unreadable = slices.SortedFunc(maps.Values(v.unreadable), func(a, b Unreadable) int { return cmp.Compare(a.Key, b.Key) })
		v.stale = false
	} else {
		p.Records.Holds, p.Records.Frozen, p.Unreadable = v.shown.Records.Holds, v.shown.Records.Frozen, v.shown.Unreadable
	}
	v.lead(&p)
	v.shown = p
	return &p
}

// lead fills in who leads: the oldest candidate, once its term has begun.
func (v *view) lead(p *published) {
	var oldest int64
	p.leader = ""
	for key, created := range v.candidates {
		if oldest == 0 || created < oldest {
			oldest, p.leader = created, key
		}
	}
	p.term = v.term
	p.led = p.leader != "" && v.term.Key == p.leader && v.term.Created == oldest
}

// mergeMitigations makes a new sorted slice of the old one and what changed.
func (v *view) mergeMitigations() {
	if len(v.changed) == 0 {
		return
	}
	ids := slices.Sorted(maps.Keys(v.changed))
	out := make([]mitigation.Mitigation, 0, len(v.mitigations)+len(ids))
	rest := v.mitigations
	for _, id := range ids {
		n, found := slices.BinarySearchFunc(rest, id, func(m mitigation.Mitigation, id string) int { return cmp.Compare(m.ID, id) })
		out = append(out, rest[:n]...)
		if found {
			n++
		}
		rest = rest[n:]
		if m := v.changed[id]; m != nil {
			out = append(out, *m)
		}
	}
	v.mitigations = append(out, rest...)
	clear(v.changed)
}
