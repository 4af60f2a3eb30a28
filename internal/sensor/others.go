package sensor

import (
	"os"
	"path/filepath"
	"slices"
)

// others finds the sensors that have, or left, programs at an interface beside us: those whose pins lie next to ours, as they do
// under another name. Of one that runs each packet is counted and reported twice; what a stopped one left costs for nothing.
func (p pins) others(index int, netns uint64) (names []string) {
	if p.Pins == nil {
		return nil
	}
	dirs, err := os.ReadDir(filepath.Dir(p.Dir()))
	if err != nil {
		return nil // not ours to read
	}
	for _, d := range dirs {
		if !d.IsDir() || d.Name() == filepath.Base(p.Dir()) {
			continue
		}
		if slices.ContainsFunc(pinnedAt(filepath.Join(filepath.Dir(p.Dir()), d.Name())), func(at place) bool {
			return at.index == index && at.netns == netns
		}) {
			names = append(names, d.Name())
		}
	}
	return names
}

// pinnedAt lists where the sensor of a pin directory has programs, as far as it may be read.
func pinnedAt(dir string) (places []place) {
	for _, sub := range []string{"links", "marks"} {
		pinned, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			continue
		}
		for _, l := range pinned {
			if at, ok := parsePlace(l.Name()); ok && (isLink(at.what) || at.what == filterIngress || at.what == filterEgress) {
				places = append(places, at)
			}
		}
	}
	return places
}
