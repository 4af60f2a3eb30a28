package bpf

import (
	"net/netip"
	"testing"
)

// TestHeavyIsWornDownSlowly: a target that has nearly got a slot has its place in HeavyKeeper hit by others. Each of their packets takes one
// from its count with odds of 1.08^-count, whoever sends it and however often: no sender always does, and none never.
func TestHeavyIsWornDownSlowly(t *testing.T) {
	k := load(t, func(s *Sizes) { s.Hosts = 16 })
	for i := range k.seed6 {
		k.seed6[i] = uint64(i+1) * golden // the same in each run, so that what comes out is, too
	}
	if err := k.objects.Seed6.Set(k.seed6); err != nil {
		t.Fatal(err)
	}
	if err := k.SetTargets(Table{netip.MustParsePrefix("2001:db8::/32"): 16}); err != nil {
		t.Fatal(err)
	}
	if err := k.objects.EmptyQueues.Set([slotKinds][freeQueues]uint32{{1, 0}, {1, 0}}); err != nil {
		t.Fatal(err)
	}
	// As heavy of admit.h has it.
	const rows, width = 2, 8192
	place := func(i int) (at [rows]uint64, fingerprint uint32) {
		hash := k.hash6(netip.PrefixFrom(in64(i), 128))
		hash = (hash ^ hash>>32) * golden
		return [rows]uint64{hash >> 32 % width, hash >> 16 % width}, uint32(hash >> 48)
	}
	const count, packets, senders = 31, 20, 100
	mine, fingerprint := place(0)
	tried, worn, most, never := 0, uint32(0), uint32(0), 0
	for i := 1; tried < senders; i++ {
		if theirs, other := place(i); theirs[0] != mine[0] || theirs[1] == mine[1] || other == fingerprint {
			continue
		}
		tried++
		var heavies [rows][width]uint32
		heavies[0][mine[0]] = fingerprint<<16 | count
		if err := k.objects.Heavies.Set(heavies); err != nil {
			t.Fatal(err)
		}
		for range packets {
			run(t, k.Ingress(), dnsTo(in64(i).String()), nil)
		}
		if err := k.objects.Heavies.Get(&heavies); err != nil {
			t.Fatal(err)
		}
		word := heavies[0][mine[0]]
		if word>>16 != fingerprint {
			t.Errorf("%d packets of %s took the place of a target with %d", packets, in64(i), count)
			continue
		}
		n := count - word&0xffff
		worn += n
		most = max(most, n)
		if n == 0 {
			never++
		}
	}
	// By the odds a sender takes 2.0 with 20 packets, give or take 1.4, and one in seven takes nothing.
	if mean := float64(worn) / senders; mean < 1.6 || mean > 2.5 || most > 7 || never > senders/4 {
		t.Errorf("%d packets of each of %d senders took %.2f on the mean, %d at most, and %d senders took nothing", packets, senders, mean, most, never)
	} else {
		t.Logf("%.2f on the mean, %d at most, %d took nothing", mean, most, never)
	}
	if st, err := k.Stats(); err != nil || st.RefusedHosts != senders*packets {
		t.Errorf("%d packets are said to be refused a slot, want %d (%v)", st.RefusedHosts, senders*packets, err)
	}
}
