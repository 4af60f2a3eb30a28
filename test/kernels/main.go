// Command kernels runs the datapath's tests on Debian's kernels, each in a virtual machine that holds nothing else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// kernels are the packages whose kernels we test on: Debian 12's own, which is the oldest we support, and the newer one
// that it offers beside it, the first Debian kernel with tcx.
const kernels = "linux-image-cloud-amd64 linux-image-6.12-cloud-amd64"

// dir keeps what is fetched and built.
const dir = "build/kernels"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	packages := flag.String("kernels", kernels, "Debian packages of kernels, separated by spaces")
	only := flag.String("run", "", "run only tests that match, as go test -run")
	accel := flag.String("accel", "", "how qemu runs the machine, kvm or tcg; by itself it takes kvm where that works")
	limit := flag.Duration("timeout", 20*time.Minute, "the longest that one machine may run")
	update := flag.Bool("update", false, "record the verifier's counts as they are now")
	verbose := flag.Bool("v", false, "print all that the tests print")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("%q is no flag; see -help", flag.Arg(0))
	}
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the machines are amd64, and emulating that on %s is not provided for", runtime.GOARCH)
	}
	for _, tool := range []string{"qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb", "xz"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: on Debian, scripts/deps.sh kernels installs it", tool)
		}
	}
	binaries, err := build(ctx)
	if err != nil {
		return err
	}
	if *accel == "" {
		*accel = accelerator()
	}
	var failed error
	for name := range strings.FieldsSeq(*packages) {
		k, err := fetch(ctx, name)
		if err != nil {
			return err
		}
		image := filepath.Join(dir, name+".cpio")
		plan := planOf(binaries, *only, *update)
		if err := writeInitramfs(ctx, image, k, binaries, &plan); err != nil {
			return fmt.Errorf("initramfs for %s: %w", name, err)
		}
		r := newResults(plan, k.release, *verbose, *only != "")
		fmt.Printf("kernel %s: booting (%s)\n", k.release, *accel)
		start := time.Now()
		err = boot(ctx, machine{kernel: k.image, initramfs: image, accel: *accel, limit: *limit}, r.handle)
		if err := errors.Join(err, r.finish()); err != nil {
			failed = errors.Join(failed, fmt.Errorf("kernel %s: %w", k.release, err))
		}
		// The one line for scripts.
		fmt.Printf("kernel %s passed=%d failed=%d skipped=%d seconds=%.0f\n", k.release, r.passed, r.failed, r.skipped, time.Since(start).Seconds())
	}
	return failed
}

// accelerator chooses kvm where the processor offers it. A device node alone says little: some hosts show one that hangs.
func accelerator() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "tcg"
	}
	for line := range strings.Lines(string(info)) {
		if key, flags, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "flags" {
			for f := range strings.FieldsSeq(flags) {
				if f == "vmx" || f == "svm" {
					if d, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
						d.Close()
						return "kvm"
					}
				}
			}
			break
		}
	}
	return "tcg"
}
