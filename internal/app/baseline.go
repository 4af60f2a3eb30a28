package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/config"
)

// baselineEvery is the time between two snapshots of what was learnt: a crash forgets that much.
const baselineEvery = 10 * time.Minute

// loadBaseline returns a learner with what an earlier process learnt. A file that cannot be read is set aside and named: what is
// learnt anew is worth less than a controller that does not start.
func loadBaseline(o config.Baseline, file string, log *slog.Logger) *baseline.Learner {
	l := baseline.New(baseline.Options{MaxKeys: o.Keys, HalfLife: o.HalfLife, Ready: o.ReadyAfter})
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l
	}
	if err == nil {
		err = l.Load(b)
	}
	if err != nil {
		aside := file + ".damaged"
		log.Warn("what was learnt of normal traffic cannot be read: it is set aside, and learning begins anew", "file", file, "aside", aside, "err", err, "rename", os.Rename(file, aside))
		return baseline.New(baseline.Options{MaxKeys: o.Keys, HalfLife: o.HalfLife, Ready: o.ReadyAfter})
	}
	return l
}

// writeWhole replaces a file by another one with this content, or leaves it as it was.
func writeWhole(file string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return os.Rename(f.Name(), file)
}

// keepBaseline writes what is learnt to disk from time to time.
func (c *Controller) keepBaseline(file string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		for tick := time.NewTicker(baselineEvery); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return nil
			case <-tick.C:
			}
			b, err := c.engine.Baseline(ctx)
			if err == nil {
				err = writeWhole(file, b)
			}
			if err != nil && ctx.Err() == nil {
				c.log.Error("what was learnt of normal traffic is not on disk; it is tried again", "file", file, "every", baselineEvery, "err", err)
			}
		}
	}
}
