package config

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var equal = []cmp.Option{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()}

func TestExamplesOfDeploy(t *testing.T) {
	c, err := LoadController("../../deploy/controller.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Speaker.Peers) != 2 || c.Speaker.Peers[0].HoldTime == 0 {
		t.Errorf("peers are %+v", c.Speaker.Peers)
	}
	dump, err := c.Dump()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseController("/dump.yaml", dump)
	if err != nil {
		t.Fatalf("%v\n%s", err, dump)
	}
	if d := cmp.Diff(c, again, equal...); d != "" {
		t.Error(d)
	}
	s, err := LoadSensor("../../deploy/sensor.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sdump, err := s.Dump()
	if err != nil {
		t.Fatal(err)
	}
	sagain, err := ParseSensor("/dump.yaml", sdump)
	if err != nil {
		t.Fatalf("%v\n%s", err, sdump)
	}
	if d := cmp.Diff(s, sagain, equal...); d != "" {
		t.Error(d)
	}
}
