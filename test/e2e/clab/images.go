package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// imagePrefix begins the name of each image of the topologies, unless a variable says otherwise.
const imagePrefix = "trafficmonitor-lab/"

// imageLabel says what an image was made of, and that it is one of ours, also when it has lost its name to a newer one.
const imageLabel = "trafficmonitor.lab"

// routerImages are the targets of Dockerfile.routers that nodes run on.
var routerImages = []string{"frr", "bird", "openbgpd", "host"}

// source is the folder of the topologies, from where "make" runs us.
const source = "test/e2e/clab"

// images makes every image. Those of Debian's packages are kept in a file for the next daemon of our own, under a name
// that says what they were made of.
func (d *docker) images(ctx context.Context, o options) error {
	began := time.Now()
	dockerfile, err := os.ReadFile(filepath.Join(source, "Dockerfile.routers"))
	if err != nil {
		return err
	}
	base, err := baseOf(o)
	if err != nil {
		return err
	}
	of := fmt.Sprintf("%.6x", sha256.Sum256(append(dockerfile, base...)))
	archive := filepath.Join(o.cache, "images-"+of+".tar")
	_, err = os.Stat(archive)
	switch {
	case err == nil && d.own:
		_, err = d.run(ctx, "load", "--quiet", "--input", archive)
	case err == nil || errors.Is(err, os.ErrNotExist):
		err = nil
		if !d.haveRouters(ctx, of) {
			err = d.buildRouters(ctx, base, of, archive)
		}
	}
	if err != nil {
		return err
	}
	// A build context is a whole folder, and bin/ has more in it than belongs into the image.
	_, err = d.run(ctx, "build", "--quiet", "--network", "none", "--tag", imagePrefix+"trafficmonitor",
		"--file", filepath.Join(source, "Dockerfile.trafficmonitor"), o.bin)
	log.Printf("   images ready after %v", time.Since(began).Round(time.Second))
	return err
}

// baseOf names the image the others are built on. A name with a suite is one to make by debootstrap.
func baseOf(o options) (string, error) {
	if o.base != "" {
		return o.base, nil
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return "debian:bookworm-slim", nil
	}
	return imagePrefix + "base", nil
}

// haveRouters reports whether the daemon has the images already, made of the same.
func (d *docker) haveRouters(ctx context.Context, of string) bool {
	for _, target := range routerImages {
		label, err := d.run(ctx, "image", "inspect", "--format", `{{index .Config.Labels "`+imageLabel+`"}}`, imagePrefix+target)
		if err != nil || strings.TrimSpace(label) != of {
			return false
		}
	}
	return true
}

func (d *docker) buildRouters(ctx context.Context, base, of, archive string) error {
	if base == imagePrefix+"base" {
		if err := d.debootstrap(ctx, base, of); err != nil {
			return err
		}
	}
	log.Printf("   building images on %s", base)
	var tags []string
	for _, target := range routerImages {
		tag := imagePrefix + target
		tags = append(tags, tag)
		// The context is not used: its folder is a small one.
		if _, err := d.run(ctx, "build", "--quiet", "--network", "host", "--build-arg", "BASE="+base, "--tag", tag,
			"--label", imageLabel+"="+of,
			"--target", target, "--file", filepath.Join(source, "Dockerfile.routers"), filepath.Join(source, "frr")); err != nil {
			return err
		}
	}
	if !d.own {
		return nil // the daemon keeps them
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(filepath.Dir(archive), "images-*.tar*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	part := archive + ".part"
	if _, err := d.run(ctx, slices.Concat([]string{"save", "--output", part}, tags)...); err != nil {
		return err
	}
	return errors.Join(os.Rename(part, archive), giveBack(filepath.Dir(archive)))
}

// debootstrap makes a base image of this machine's release from the mirror that apt uses.
func (d *docker) debootstrap(ctx context.Context, tag, of string) error {
	log.Print("   making a base image with debootstrap")
	release, err := output(ctx, os.Environ(), nil, "sh", "-c", `. /etc/os-release && echo "${VERSION_CODENAME:?no Debian release}"`)
	if err != nil {
		return err
	}
	suite := strings.TrimSpace(release)
	mirrors, err := output(ctx, os.Environ(), nil, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Release: "+suite)
	if err != nil {
		return err
	}
	args := []string{"--variant=minbase", suite, filepath.Join(home, "root")}
	if m := strings.Fields(mirrors); len(m) > 0 {
		args = append(args, m[0])
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	root := args[2]
	// It mounts /proc and /sys into the folder, which an interruption leaves there.
	defer func() {
		if err := unmountBelow(root); err == nil {
			os.RemoveAll(root)
		}
	}()
	if _, err := output(ctx, os.Environ(), nil, "debootstrap", args...); err != nil {
		return err
	}
	_, err = output(ctx, d.env(), nil, "sh", "-c", `tar -C "$1" --exclude ./var/cache/apt/archives/*.deb --exclude ./var/lib/apt/lists/* \
		--exclude ./usr/share/doc/* --exclude ./usr/share/man/* --exclude ./usr/share/locale/* -c . | docker import --change "LABEL $3" - "$2"`, "sh", root, tag, imageLabel+"="+of)
	return err
}

// identities are the certificates the nodes of all topologies need.
var identities = []struct {
	role, name string
	hosts      []string // what the name may be reached by
}{
	{"controller", "ctl1", []string{"ctl1", "10.2.0.2", "10.3.11.1", "198.51.100.21"}},
	{"controller", "ctl2", []string{"ctl2", "10.3.12.1"}},
	{"controller", "ctl3", []string{"ctl3", "10.3.13.1"}},
	{"sensor", "rack1", nil},
	{"sensor", "tap2", nil},
	{"operator", "engineer", nil},
}

// certificates makes an authority and what it vouches for, once: all of it or nothing.
func certificates(ctx context.Context, o options) error {
	dir := filepath.Join(o.cache, "pki")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(o.cache, 0o755); err != nil {
		return err
	}
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	tmctl := filepath.Join(o.bin, "tmctl")
	if _, err := output(ctx, os.Environ(), nil, tmctl, "pki", "init", "--dir", part); err != nil {
		return err
	}
	for _, id := range identities {
		args := []string{"pki", "issue", "--dir", part, "--role", id.role, "--name", id.name}
		for _, host := range id.hosts {
			args = append(args, "--host", host)
		}
		if _, err := output(ctx, os.Environ(), nil, tmctl, args...); err != nil {
			return err
		}
	}
	return errors.Join(os.Rename(part, dir), giveBack(o.cache))
}

// giveBack makes what sudo had us write the user's own, that "make clean" can remove it.
func giveBack(dir string) error {
	uid, err1 := strconv.Atoi(os.Getenv("SUDO_UID"))
	gid, err2 := strconv.Atoi(os.Getenv("SUDO_GID"))
	if err1 != nil || err2 != nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, gid))
	})
}
