// Package profile reads what is known of each kind of router, from data files that name the source of every fact: those
// shipped with the program and those an operator adds.
package profile

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/document"
)

// Generic is the name of the profile of a router of which nothing is said.
const Generic = "generic"

// Profile is one kind of router.
type Profile struct {
	Router   compile.Profile // what decides the rules it gets
	Platform string          // what it is, in words
	File     string          // where it was read
	// OverLimit is what the router does when it gets more routes than its own limit allows.
	OverLimit OverLimit
	Setup     []string // what must be configured on the router so that rules work, in sentences
	Probe     Probe
	Facts     []Fact
}

// OverLimit is what happens beyond a router's maximum of prefixes.
type OverLimit string

// What may happen.
const (
	Unknown       OverLimit = ""
	ClosesSession OverLimit = "closes-session" // and drops every rule
	Warns         OverLimit = "warns"
)

// Probe says how to ask a router what it installed.
type Probe struct {
	Parser     string // the name of what reads the answer; empty means that nobody can
	IPv4, IPv6 string // the command, as its command line takes it; empty means none
	Counters   string // the command that shows what rules hit, where it is another; empty means none
	SNMP       string // the table that is read by SNMP, one of SNMPTables; empty means none
	GNMI       string // the model that is read by gNMI, one of GNMIModels; empty means none
}

// Source says how far a fact can be trusted.
type Source string

// The sources.
const (
	Reproduced Source = "reproduced"  // seen in a test of this project, with the versions it names
	Primary    Source = "primary"     // read where the vendor, the project's source or the measurement says it
	SecondHand Source = "second-hand" // told by others: unconfirmed
	Model      Source = "model"       // reckoned from other facts
	Own        Source = "own"         // of the operator who wrote the profile
)

// Fact is one thing known of a router.
type Fact struct {
	About  []string // keys of the file
	Says   string
	Source Source
	Where  string // what the source is
}

//go:embed shipped/*.yaml
var shipped embed.FS

// Set is all profiles there are, sorted by name.
type Set []Profile

// Get returns the profile of this name.
func (s Set) Get(name string) (Profile, bool) {
	i := slices.IndexFunc(s, func(p Profile) bool { return p.Router.Name == name })
	if i < 0 {
		return Profile{}, false
	}
	return s[i], true
}

// Names returns the names of all profiles.
func (s Set) Names() []string {
	names := make([]string, len(s))
	for i, p := range s {
		names[i] = p.Router.Name
	}
	return names
}

// Load returns the shipped profiles and, unless dir is empty, those of its files. The error lists everything that is wrong
// with any of them.
func Load(dir string) (Set, error) {
	var files []document.File
	names, err := fs.Glob(shipped, "shipped/*.yaml")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		text, err := shipped.ReadFile(n)
		if err != nil {
			return nil, err
		}
		files = append(files, document.File{Name: n, Text: text})
	}
	if dir != "" {
		own, err := document.ReadPath(dir, func(string) bool { return false })
		if err != nil {
			return nil, fmt.Errorf("profiles: %w", err)
		}
		files = append(files, own...)
	}
	var set Set
	var errs []error
	for _, f := range files {
		p, err := Parse(f.Name, f.Text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if have, ok := set.Get(p.Router.Name); ok {
			errs = append(errs, fmt.Errorf("%s: name: %s is the profile of %s already: choose another name, and name it at the peers", f.Name, p.Router.Name, have.File))
			continue
		}
		set = append(set, p)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	slices.SortFunc(set, func(a, b Profile) int { return strings.Compare(a.Router.Name, b.Router.Name) })
	return set, nil
}
