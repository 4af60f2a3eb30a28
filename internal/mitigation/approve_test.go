package mitigation

import "testing"

func TestSamePerson(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"eva", "eva", true},
		{"eva", "ann", false},
		{"eva (unix uid 0)", "ann (unix uid 0)", true},
		{"eva (unix uid 0)", "eva (unix uid 10)", false},
		{"eva (unix uid 0)", "eva", false},
		{"eva (loopback)", "ann (loopback)", false},
		{"", "ann (unix uid 0)", false},
		{"automation", "ann (unix uid 0)", false},
	} {
		if got := same(c.a, c.b); got != c.same || same(c.b, c.a) != got {
			t.Errorf("%q and %q: %v, want %v", c.a, c.b, got, c.same)
		}
	}
}
