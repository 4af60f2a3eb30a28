package sensor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// hook is one of our programs at one place of the kernel.
type hook interface {
	// alive tells whether the program is still there: others may take it away, and it goes with its interface.
	alive() bool
	// leave forgets the hook. A pinned one stays where it is, any other goes.
	leave() error
	// remove takes the program away, pinned or not.
	remove() error
}

// linkHook is a program held by a link.
type linkHook struct {
	link.Link
	index int
	path  string // of the pin; empty for none
}

func (h linkHook) alive() bool { return linkIndex(h.Link) == h.index }

func (h linkHook) leave() error { return h.Close() }

func (h linkHook) remove() error {
	var err error
	if h.path != "" {
		if err = os.Remove(h.path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return errors.Join(err, h.Close())
}

// linkIndex returns the index of the interface a link is on; 0 when the interface is gone or the link was detached.
func linkIndex(l link.Link) int {
	info, err := l.Info()
	if err != nil {
		return 0
	}
	if t := info.TCX(); t != nil {
		return int(t.Ifindex)
	}
	if x := info.XDP(); x != nil {
		return int(x.Ifindex)
	}
	return 0
}

// putLink makes program p the one at a place: by exchanging the program of the link pinned for it, in one step between two
// packets, or else by a new link, which make makes.
func putLink(pins pins, at place, p *ebpf.Program, make func() (link.Link, error)) (h linkHook, adopted bool, err error) {
	h.index = at.index
	if pins.Pins == nil {
		h.Link, err = make()
		return h, false, err
	}
	h.path = pins.LinkPath(at.String())
	old, err := link.LoadPinnedLink(h.path, nil)
	if err == nil {
		h.Link = old
		if h.alive() {
			if err := old.Update(p); err != nil {
				return h, false, errors.Join(fmt.Errorf("exchange the program of the pinned link %s: %w", h.path, err), old.Close())
			}
			return h, true, nil
		}
		if err := h.remove(); err != nil {
			return h, false, fmt.Errorf("remove the dead link %s: %w", h.path, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return h, false, fmt.Errorf("open the pinned link %s: %w", h.path, err)
	}
	if h.Link, err = make(); err != nil {
		return h, false, err
	}
	if err := h.Pin(h.path); err != nil {
		return h, false, errors.Join(fmt.Errorf("pin the link: %w", err), h.Close())
	}
	return h, false, nil
}

// pinnedLink opens the link pinned for a place; nil if there is none.
func pinnedLink(pins pins, at place) (hook, error) {
	if pins.Pins == nil {
		return nil, nil
	}
	path := pins.LinkPath(at.String())
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	return linkHook{Link: l, index: at.index, path: path}, nil
}
