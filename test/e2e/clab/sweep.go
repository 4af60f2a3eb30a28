package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/vishvananda/netlink"
)

// sweep takes away what a run of ours has left, or is about to leave: the topologies in our own daemon, the daemon, its
// bridge, all its files.
func sweep(ctx context.Context, o options) error {
	var errs []error
	if pid := daemonPID(); pid > 0 {
		d := &docker{host: ownHost, own: true}
		errs = append(errs, d.destroyAll(ctx, o), endProcess(pid))
	}
	if link, err := netlink.LinkByName(daemonLink); err == nil {
		errs = append(errs, netlink.LinkDel(link))
	}
	if err := unmountBelow(home); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, os.RemoveAll(home))...)
}

// down takes away every topology of ours, in our own daemon and in the machine's.
func down(ctx context.Context, o options) error {
	errs := []error{sweep(ctx, o)}
	d, err := existingDocker(ctx)
	if d != nil {
		errs = append(errs, d.destroyAll(ctx, o))
	}
	return errors.Join(append(errs, err)...)
}

// destroyAll takes down the topologies there are in a daemon.
func (d *docker) destroyAll(ctx context.Context, o options) error {
	var errs []error
	for _, s := range scenarios {
		n := &network{name: s.name, docker: d, o: o}
		if left, err := n.exists(ctx); left || err != nil {
			errs = append(errs, err, n.destroy(ctx))
		}
	}
	return errors.Join(errs...)
}

// leftovers removes what there is of a topology outside of docker and should be gone by now, and tells of each: it is a
// mistake of ours or of containerlab's.
func (n *network) leftovers() error {
	var errs []error
	gone := func(what string, err error) {
		errs = append(errs, fmt.Errorf("left behind, and removed now: %s", what), err)
	}
	for _, pattern := range []string{"/run/netns/" + n.container("*"), "/etc/ssh/ssh_config.d/clab-" + n.lab() + ".conf"} {
		paths, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, p := range paths {
			gone(p, os.Remove(p))
		}
	}
	if link, err := netlink.LinkByName(n.lab()); err == nil {
		gone("bridge "+link.Attrs().Name, netlink.LinkDel(link))
	}
	const hosts = "/etc/hosts"
	text, err := os.ReadFile(hosts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	block := regexp.MustCompile(`(?s)\n?#+ CLAB-` + n.lab() + `-START #+.*?#+ CLAB-` + n.lab() + `-END #+\n?`)
	if clean := block.ReplaceAll(text, nil); len(clean) != len(text) {
		gone("lines of "+hosts, os.WriteFile(hosts, clean, 0o644))
	}
	return errors.Join(errs...)
}
