package policy

import "testing"

func TestDefault(t *testing.T) {
	p := Default()
	t.Logf("%+v", p.Triggers())
}
