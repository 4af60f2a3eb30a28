package app

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/amooglesoft/trafficmonitor/policy"
)

// watch calls changed when what look sees is no longer what it was, and was the same in two looks one after the other: so
// that nobody is still writing.
func watch(ctx context.Context, every time.Duration, was string, look func() string, changed func()) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	before := was
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := look()
		if now == before && now != was {
			was = now
			changed()
		}
		before = now
	}
}

// fingerprint is what the files of policies look like now, unreadable ones included.
func fingerprint(paths ...string) string {
	sum := sha256.New()
	for _, path := range paths {
		if path == "" {
			continue
		}
		files, err := policy.Read(path)
		if err != nil {
			sum.Write([]byte(err.Error()))
		}
		for _, f := range files {
			sum.Write([]byte(f.Name + "\x00"))
			sum.Write(f.Text)
			sum.Write([]byte{0})
		}
	}
	return string(sum.Sum(nil))
}
