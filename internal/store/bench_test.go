package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

// BenchmarkCommitToWatch is the store's share of the way from a packet to the UPDATE. "us/commit" is what Commit took,
// "us/notify" what a watcher waited on top of it: our own part, etcd's write to disk being in the first.
func BenchmarkCommitToWatch(b *testing.B) {
	for _, stored := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("etcd=embedded/stored=%d", stored), func(b *testing.B) {
			benchCommit(b, open(b, Options{DataDir: b.TempDir()}), stored)
		})
		b.Run(fmt.Sprintf("etcd=socket-nofsync/stored=%d", stored), func(b *testing.B) {
			benchCommit(b, startCluster(b).open("one"), stored)
		})
	}
}

func benchCommit(b *testing.B, s *Store, stored int) {
	l := lead(b, s)
	arrived := make(chan Snapshot, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Watch(ctx, func(n Snapshot) { arrived <- n })
	}()
	defer func() { cancel(); <-done }()
	until := func(rev int64) {
		for n := range arrived {
			if n.Revision >= rev {
				return
			}
		}
	}
	until(commit(b, l, Change{Put: samples(b, stored)}))
	m := sample(b, stored/2)
	var committing, waiting time.Duration
	n := 0
	for b.Loop() {
		m.Extensions++
		began := time.Now()
		rev, err := l.Commit(ctx, Change{Put: []mitigation.Mitigation{m}})
		if err != nil {
			b.Fatal(err)
		}
		committed := time.Now()
		until(rev)
		committing += committed.Sub(began)
		waiting += time.Since(committed)
		n++
	}
	b.ReportMetric(float64(committing.Microseconds())/float64(n), "us/commit")
	b.ReportMetric(float64(waiting.Microseconds())/float64(n), "us/notify")
}

func BenchmarkDecode(b *testing.B) {
	raw, err := encodeMitigation(sample(b, 1))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeMitigation("m000001", raw); err != nil {
			b.Fatal(err)
		}
	}
}
