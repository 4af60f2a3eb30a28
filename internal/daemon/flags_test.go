package daemon

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	p := Program{Name: "sensor", Version: "v1", Usage: "usage: sensor --config FILE\n", Config: "/etc/x.yaml"}
	for _, tc := range []struct {
		args   string
		code   int
		done   bool
		flags  Flags
		stdout string
		stderr string
	}{
		{"", ExitOK, false, Flags{Config: "/etc/x.yaml"}, "", ""},
		{"--config a.yaml --check", ExitOK, false, Flags{Config: "a.yaml", Check: true}, "", ""},
		{"--dump", ExitOK, false, Flags{Config: "/etc/x.yaml", Dump: true}, "", ""},
		{"--version", ExitOK, true, Flags{Config: "/etc/x.yaml"}, "v1\n", ""},
		{"--help", ExitOK, true, Flags{Config: "/etc/x.yaml"}, "", "usage: sensor"},
		{"--banana", ExitUsage, true, Flags{Config: "/etc/x.yaml"}, "", "banana"},
		{"banana", ExitUsage, true, Flags{Config: "/etc/x.yaml"}, "", `sensor: "banana" is not understood`},
	} {
		var out, errs bytes.Buffer
		f, code, done := p.Parse(strings.Fields(tc.args), &out, &errs)
		if f != tc.flags || code != tc.code || done != tc.done || out.String() != tc.stdout || !strings.Contains(errs.String(), tc.stderr) {
			t.Errorf("%q: %+v %d %v %q %q", tc.args, f, code, done, out.String(), errs.String())
		}
	}
}

type dump struct{ err error }

func (d dump) Dump() ([]byte, error) { return []byte("name: x\n"), d.err }

func TestPrint(t *testing.T) {
	var out, errs bytes.Buffer
	if code := Print(dump{}, &out, &errs); code != ExitOK || out.String() != "name: x\n" {
		t.Errorf("exit %d, %q", code, out.String())
	}
	if code := Print(dump{errors.New("no")}, &out, &errs); code != ExitFailed || errs.String() != "no\n" {
		t.Errorf("exit %d, %q", code, errs.String())
	}
}
