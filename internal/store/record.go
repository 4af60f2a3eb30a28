package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// The keys; see the package comment.
const (
	keyRoot        = "/trafficmonitor/v1/"
	keyMitigations = keyRoot + "mitigations/"
	keyHolds       = keyRoot + "holds/"
	keyFreeze      = keyRoot + "freeze"
	keyFreezes     = keyRoot + "freezes/"
	keyTerm        = keyRoot + "term"
	keyCommit      = keyRoot + "commit"
	keyElection    = keyRoot + "leader" // the election appends "/LEASE"
	keyLeader      = keyElection + "/"
)

// maxID bounds the ID of a mitigation and the name of a group, which are parts of keys.
const maxID = 256

func mitigationKey(id string) string     { return keyMitigations + id }
func freezeKey(group string) string      { return keyFreezes + group }
func holdKey(target netip.Prefix) string { return keyHolds + target.String() }

// mitigationRecord is a mitigation as stored. Its vectors are written as numbers; the type they have in memory would
// come out as base64.
type mitigationRecord struct {
	mitigation.Mitigation
	Vectors []uint16 `json:"vectors,omitempty"`
}

// termRecord tells the last term that began.
type termRecord struct {
	Number  uint64    `json:"number"`
	Name    string    `json:"name"`
	Address string    `json:"address,omitempty"`
	Key     string    `json:"key"`     // of the leader in the election
	Created int64     `json:"created"` // create revision of Key
	Began   time.Time `json:"began"`
}

// commitRecord is present while a commit of several parts is under way.
type commitRecord struct {
	Term  uint64 `json:"term"`
	Part  int    `json:"part"` // written so far
	Parts int    `json:"parts"`
}

// candidate is the value of a key in the election.
type candidate struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
}

// decodeStrict reads exactly one JSON value with no member unknown to v.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			member := strings.TrimPrefix(wrong.Field, "Mitigation.") // embedded in mitigationRecord
			return fmt.Errorf("%s: a %s cannot stand there", cmp.Or(member, "record"), wrong.Value)
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the JSON value")
	}
	return nil
}

func encodeMitigation(m mitigation.Mitigation) ([]byte, error) {
	r := mitigationRecord{Mitigation: m}
	for _, v := range m.Vectors {
		r.Vectors = append(r.Vectors, uint16(v))
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	// What could not be read back must not be written: it would take its routes away on every controller.
	if _, err := decodeMitigation(m.ID, b); err != nil {
		return nil, err
	}
	return b, nil
}

func decodeMitigation(id string, b []byte) (mitigation.Mitigation, error) {
	var r mitigationRecord
	if err := decodeStrict(b, &r); err != nil {
		return mitigation.Mitigation{}, err
	}
	m := r.Mitigation
	for _, v := range r.Vectors {
		if v >= vector.Count {
			return mitigation.Mitigation{}, fmt.Errorf("vector %d is not below %d", v, vector.Count)
		}
		m.Vectors = append(m.Vectors, vector.ID(v))
	}
	m.Complete()
	return m, checkMitigation(id, m)
}

// checkMitigation reports what makes a record meaningless. What is meaningful but dangerous is the safety kernel's.
func checkMitigation(id string, m mitigation.Mitigation) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case m.ID == "" || len(m.ID) > maxID:
		bad("id of %d octets: 1 to %d are allowed", len(m.ID), maxID)
	case strings.ContainsFunc(m.ID, func(r rune) bool { return r <= ' ' || r == '/' || r >= 0x7f }):
		bad("id %q: only printable ASCII without space and slash", m.ID)
	case m.ID != id:
		bad("id %q stands under the key of %q", m.ID, id)
	}
	if err := checkPrefix(m.Target); err != nil {
		bad("target: %w", err)
	}
	switch m.State {
	case mitigation.Pending, mitigation.Active, mitigation.Ended, mitigation.Refused:
	default:
		bad("state %q is not known", m.State)
	}
	switch { // records of older versions have none
	case m.Phase != "" && m.Phase.State() == "":
		bad("phase %q is not known", m.Phase)
	case m.Phase != "" && m.Phase.State() != m.State:
		bad("phase %q is none of a mitigation that is %s", m.Phase, m.State)
	}
	if len(m.Routes) == 0 {
		bad("no routes")
	}
	for i, r := range m.Routes {
		if err := r.Validate(); err != nil {
			bad("routes[%d]: %w", i, err)
		}
	}
	if m.Requester == "" {
		bad("no requester")
	}
	if m.Created.IsZero() {
		bad("created is missing")
	}
	if m.Deadline.IsZero() {
		bad("deadline is missing: every announcement has an end from birth")
	}
	if m.Extend < 0 {
		bad("extend %s is negative", m.Extend)
	}
	return errors.Join(errs...)
}

func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() {
		return errors.New("not a prefix")
	}
	q, err := route.ParsePrefix(p.String())
	if err != nil {
		return err
	}
	if q != p {
		return fmt.Errorf("%s is not canonical: meant is %s", p, q)
	}
	return nil
}

func encodeHold(h mitigation.Hold) ([]byte, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if _, err := decodeHold(h.Target.String(), b); err != nil {
		return nil, err
	}
	return b, nil
}

func decodeHold(target string, b []byte) (mitigation.Hold, error) {
	var h mitigation.Hold
	if err := decodeStrict(b, &h); err != nil {
		return h, err
	}
	var errs []error
	if err := checkPrefix(h.Target); err != nil {
		errs = append(errs, fmt.Errorf("target: %w", err))
	} else if h.Target.String() != target {
		errs = append(errs, fmt.Errorf("target %s stands under the key of %s", h.Target, target))
	}
	if h.Until.IsZero() {
		errs = append(errs, errors.New("until is missing"))
	}
	return h, errors.Join(errs...)
}

// encodeFreeze is for the key of a group, or with "" for that of all automation.
func encodeFreeze(group string, f mitigation.Freeze) ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	if _, err := decodeFreeze(group, b); err != nil {
		return nil, err
	}
	return b, nil
}

// decodeFreeze reads the freeze that stands under the key of a group, or with "" that of all automation.
func decodeFreeze(group string, b []byte) (mitigation.Freeze, error) {
	var f mitigation.Freeze
	if err := decodeStrict(b, &f); err != nil {
		return f, err
	}
	var errs []error
	if f.Group != group {
		errs = append(errs, fmt.Errorf("group %q stands under the key of %q", f.Group, group))
	}
	if f.Since.IsZero() {
		errs = append(errs, errors.New("since is missing"))
	}
	return f, errors.Join(errs...)
}

// checkGroup reports what cannot be part of a key.
func checkGroup(name string) error {
	if name == "" || len(name) > maxID || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r >= 0x7f }) {
		return fmt.Errorf("group %q: 1 to %d characters of printable ASCII without space and slash", name, maxID)
	}
	return nil
}
