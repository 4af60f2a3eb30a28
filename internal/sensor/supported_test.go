package sensor

import (
	"strings"
	"testing"
)

func TestUnsupported(t *testing.T) {
	for _, tc := range []struct {
		arch, realtime string
		want           []string
	}{
		{"amd64", "", nil},
		{"amd64", "0\n", nil},
		{"amd64", "1\n", []string{"PREEMPT_RT"}},
		{"arm64", "", []string{"arm64"}},
		{"arm64", "1\n", []string{"arm64", "PREEMPT_RT"}},
	} {
		got := unsupported(tc.arch, tc.realtime)
		if (got == "") != (len(tc.want) == 0) {
			t.Errorf("%+v: %q", tc, got)
		}
		for _, word := range tc.want {
			if !strings.Contains(got, word) {
				t.Errorf("%+v: %q", tc, got)
			}
		}
	}
}
