package document

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestScalars(t *testing.T) {
	type row struct{ in, want string } // want is what Format makes of it, or the error
	run := func(name string, parse func(string) (string, error), rows []row) {
		t.Run(name, func(t *testing.T) {
			for _, r := range rows {
				got, err := parse(r.in)
				if err != nil {
					got = "error: " + err.Error()
				}
				if got != r.want {
					t.Errorf("%q\n got %s\nwant %s", r.in, got, r.want)
				}
			}
		})
	}
	run("pps", through(PPS()), []row{
		{"20 kpps", "20 kpps"},
		{"20kpps", "20 kpps"},
		{"1.5 Mpps", "1.5 Mpps"},
		{"1500 kpps", "1.5 Mpps"},
		{"999 pps", "999 pps"},
		{"1234567 pps", "1.234567 Mpps"},
		{"0.0000001 kpps", `error: "0.0000001 kpps" is less than 1 pps`},
		{"0 pps", `error: "0 pps" is less than 1 pps`},
		{"20 KPPS", `error: "20 KPPS" has an unknown unit "KPPS"; did you mean "20 kpps"?`},
		{"20 mpps", `error: "20 mpps" has an unknown unit "mpps"; did you mean "20 Mpps"?`},
		{"20", `error: "20" has no unit: use one of Gpps, Mpps, kpps, pps`},
		{"20 Mbps", `error: "20 Mbps" counts bits, but this counts packets: use one of Gpps, Mpps, kpps, pps`},
		{"-1 pps", `error: "-1 pps" is not a rate: write a number and a unit, such as 20 kpps`},
		{"1e3 pps", `error: "1e3 pps" has an unknown unit "e3 pps": use one of Gpps, Mpps, kpps, pps`},
		{"", `error: "" is not a rate: write a number and a unit, such as 20 kpps`},
		{"NaN pps", `error: "NaN pps" is not a rate: write a number and a unit, such as 20 kpps`},
		{"99999999 Gpps", `error: "99999999 Gpps" is more than any interface carries`},
	})
	run("bps", through(BPS()), []row{
		{"1.5 Gbps", "1.5 Gbps"},
		{"500 Mbps", "500 Mbps"},
		{"1 Tbps", "1 Tbps"},
		{"8 bps", "8 bps"},
		{"1 gbps", `error: "1 gbps" has an unknown unit "gbps"; did you mean "1 Gbps"?`},
		{"1 Gbit/s", `error: "1 Gbit/s" has an unknown unit "Gbit/s"; did you mean "1 Gbps"?`},
		{"1.5G", `error: "1.5G" has an unknown unit "G"; did you mean "1.5 Gbps"?`},
		{"20 MBps", `error: "20 MBps" counts octets, but this counts bits; did you mean "160 Mbps"?`},
		{"20 kpps", `error: "20 kpps" counts packets, but this counts bits: use one of Tbps, Gbps, Mbps, kbps, bps`},
		{"1 furlong", `error: "1 furlong" has an unknown unit "furlong": use one of Tbps, Gbps, Mbps, kbps, bps`},
	})
	run("duration", through(Duration(0, 48*time.Hour)), []row{
		{"10m", "10m"},
		{"33ms", "33ms"},
		{"24h", "24h"},
		{"90s", "1m30s"},
		{"1h0m30s", "1h0m30s"},
		{"0s", "0s"},
		{"0", "0s"},
		{"1.5h", "1h30m"},
		{"30", `error: "30" has no unit; did you mean "30s"?`},
		{"2d", `error: "2d" counts in days, which are not always 24 hours; did you mean "48h"?`},
		{"10 minutes", `error: "10 minutes" is not a duration; did you mean "10m"?`},
		{"10 m", `error: "10 m" is not a duration; did you mean "10m"?`},
		{"10M", `error: "10M" is not a duration; did you mean "10m"?`},
		{"soon", `error: "soon" is not a duration such as 10m, 1h30m or 33ms`},
		{"49h", `error: 49h is not from 0s to 48h`},
		{"-1s", `error: -1s is not from 0s to 48h`},
	})
	run("size", through(Size(24<<20, 16<<30)), []row{
		{"64MiB", "64MiB"},
		{"64 MiB", "64MiB"},
		{"1024MiB", "1GiB"},
		{"98304KiB", "96MiB"},
		{"24577KiB", "24577KiB"},
		{"64", `error: "64" has no unit: write a size such as 64MiB`},
		{"64MB", `error: "64MB" has an unknown unit "MB"; did you mean "64MiB"?`},
		{"1MiB", `error: 1MiB is not from 24MiB to 16GiB`},
		{"99999999 GiB", `error: 99999999 GiB is not from 24MiB to 16GiB`},
		{"much", `error: "much" is not a size such as 64MiB`},
		{"1.5GiB", `error: "1.5GiB" is not a size such as 64MiB`},
	})
	run("percent", through(Percent(0.01, 1)), []row{
		{"70%", "70%"},
		{"2.5 %", "2.5%"},
		{"100%", "100%"},
		{"33.3333%", "33.3333%"},
		{"0.7", `error: "0.7" has no percent sign; did you mean "70%"?`},
		{"70", `error: "70" has no percent sign; did you mean "70%"?`},
		{"0%", `error: 0% is not from 1% to 100%`},
		{"101%", `error: 101% is not from 1% to 100%`},
		{"1.23456%", `error: "1.23456%" is not a percentage such as 70% or 2.5%`},
		{"x", `error: "x" is not a percentage such as 70%`},
	})
	run("prefix", through(Prefix()), []row{
		{"192.0.2.0/24", "192.0.2.0/24"},
		{"2001:db8::1", "2001:db8::1/128"},
		{"192.0.2.1/24", `error: "192.0.2.1/24" has bits set beyond its length; did you mean "192.0.2.0/24"?`},
		{"192.0.2.0/33", `error: "192.0.2.0/33" is not a prefix such as 192.0.2.0/24 or 2001:db8::/32`},
		{"::ffff:192.0.2.1", `error: "::ffff:192.0.2.1" is an IPv4-mapped address: write it as IPv4; did you mean "192.0.2.1"?`},
		{"fe80::1%eth0", `error: "fe80::1%eth0" is not a prefix such as 192.0.2.0/24 or 2001:db8::/32`},
	})
	run("address", through(Addr()), []row{
		{"192.0.2.1", "192.0.2.1"},
		{"2001:DB8::1", "2001:db8::1"},
		{"192.0.2.1/32", `error: "192.0.2.1/32" is a prefix, but it must be an address; did you mean "192.0.2.1"?`},
		{"192.0.2.1:179", `error: "192.0.2.1:179" is an address with a port, but it must be an address alone; did you mean "192.0.2.1"?`},
		{"fe80::1%eth0", `error: "fe80::1%eth0" has a zone, which is not allowed here; did you mean "fe80::1"?`},
	})
	run("number", through(Number(1, 10)), []row{
		{"7", "7"},
		{"0", "error: 0 is not from 1 to 10"},
		{"11", "error: 11 is not from 1 to 10"},
		{"1_0", `error: "1_0" is not a whole number; did you mean "10"?`},
		{"0x5", `error: "0x5" is not a whole number from 1 to 10`},
		{"99999999999999999999", `error: "99999999999999999999" is not a whole number from 1 to 10`},
	})
	run("bool", through(Bool()), []row{
		{"true", "true"},
		{"no", `error: "no" is neither true nor false; did you mean "false"?`},
		{"True", `error: "True" is neither true nor false; did you mean "true"?`},
		{"maybe", `error: "maybe" is neither true nor false`},
	})
	run("word", through(Word()), []row{
		{"rack-17", "rack-17"},
		{"rack 17", `error: "rack 17" is not a name: letters, digits, dot, dash and underscore make one; did you mean "rack-17"?`},
		{"", "error: is empty"},
		{"a\nb", `error: "a\nb" holds a line break or a character that cannot be printed`},
	})
}

func through[T any](c Codec[T]) func(string) (string, error) {
	return func(s string) (string, error) {
		v, err := c.Parse(s)
		if err != nil {
			return "", err
		}
		return c.Format(v), nil
	}
}

// What Format writes, Parse reads back equal, for any value Parse can return.
func TestUnitsRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		v := float64(rnd.Uint64N(1 << (1 + rnd.Uint64N(49))))
		if v < 1 || v > maxRate {
			continue
		}
		for _, c := range []Codec[float64]{PPS(), BPS()} {
			if got, err := c.Parse(c.Format(v)); err != nil || got != v {
				t.Fatalf("%v was written as %q and read as %v, %v", v, c.Format(v), got, err)
			}
		}
		d := time.Duration(rnd.Int64N(1 << (1 + rnd.Int64N(50))))
		c := Duration(0, 1<<62)
		if got, err := c.Parse(c.Format(d)); err != nil || got != d {
			t.Fatalf("%v was written as %q and read as %v, %v", d, c.Format(d), got, err)
		}
		p := Percent(0, 1)
		share := float64(rnd.IntN(1_000_001)) / 10_000 / 100
		if got, err := p.Parse(p.Format(share)); err != nil || got != share {
			t.Fatalf("%v was written as %q and read as %v, %v", share, p.Format(share), got, err)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"report_interval", "hot_interval", "stale_after", "md5_file", "asn", "syn", "syn-ack", "total"}
	for in, want := range map[string]string{
		"report-interval": "report_interval", "reportinterval": "report_interval", "Stale_After": "stale_after", "stale_aftr": "stale_after",
		"md5": "md5_file", "ans": "asn", "synack": "syn-ack", "totl": "total", "banana": "", "": "", "x": "", "hot": "hot_interval",
	} {
		if got := Nearest(in, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzScalars: whatever a codec accepts, it writes so that it reads back equal.
func FuzzScalars(f *testing.F) {
	for _, s := range []string{"20 kpps", "1.5Gbps", "70%", "33.3333 %", "1h30m", "33ms", "192.0.2.0/24", "2001:DB8::1", "true", "007", "rack-17", "slow", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		again(t, s, PPS())
		again(t, s, BPS())
		again(t, s, Percent(0, 1))
		again(t, s, Duration(0, 1<<62))
		again(t, s, Size(0, 1<<40))
		again(t, s, Prefix())
		again(t, s, OrEmpty(Addr()))
		again(t, s, Bool())
		again(t, s, Number(-5, 1000))
		again(t, s, Word())
		again(t, s, Text(0, 100))
		again(t, s, OneOf("slow", "fast"))
	})
}

func again[T comparable](t *testing.T, s string, c Codec[T]) {
	t.Helper()
	v, err := c.Parse(s)
	if err != nil {
		if err.Error() == "" {
			t.Errorf("%s: %q is refused without a word", c.Type, s)
		}
		return
	}
	if got, err := c.Parse(c.Format(v)); err != nil || got != v {
		t.Errorf("%s: %q was written as %q and read as %v, %v", c.Type, s, c.Format(v), got, err)
	}
}
