package policy

import (
	"slices"
	"testing"
)

func TestGroups(t *testing.T) {
	p, err := Parse("test", []byte(`
version: 1
thresholds:
  - {vectors: [total], pps: 1 Mpps}
responses:
  - {vectors: [total], action: observe}
groups:
  customers:
    prefixes: [203.0.113.0/24, 2001:db8::/32]
  dns:
    prefixes: [203.0.113.0/28, 203.0.113.53/32, 2001:db8::53/128, 198.51.100.53/32]
  vip:
    prefixes: [203.0.113.0/29]
`))
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string][]string{
		"203.0.113.200":   {"customers"},
		"203.0.113.9":     {"dns", "customers"},
		"203.0.113.53":    {"dns", "customers"},
		"203.0.113.1":     {"vip", "dns", "customers"},
		"198.51.100.53":   {"dns"},
		"198.51.100.1":    nil,
		"203.0.113.0/24":  {"customers"},
		"203.0.112.0/23":  nil, // only in part
		"2001:db8::53":    {"dns", "customers"},
		"2001:db8::/48":   {"customers"},
		"2001:db9::1/128": nil,
	} {
		if got := p.Groups(pfx(target)); !slices.Equal(got, want) {
			t.Errorf("groups of %s: %v, want %v", target, got, want)
		}
		if own := p.Group(pfx(target)); own != append(want, DefaultGroup)[0] {
			t.Errorf("group of %s: %s, want %s", target, own, append(want, DefaultGroup)[0])
		}
	}
	if got, want := p.GroupNames(), []string{"customers", "default", "dns", "vip"}; !slices.Equal(got, want) {
		t.Errorf("names %v, want %v", got, want)
	}
}
