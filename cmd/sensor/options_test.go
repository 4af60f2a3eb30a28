package main

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/sensor"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry"
)

// TestEveryKeyReachesTheSensor: a key that is read and not handed on is a promise nobody keeps.
func TestEveryKeyReachesTheSensor(t *testing.T) {
	cfg, err := config.ParseSensor("sensor.yaml", []byte(`
name: rack7
slots: 128
prefixes: 9
networks4: 10
cut_mirrors: true
idle_after: 3m
backlog: 11
state_file: /nowhere/state
pin: /nowhere/bpf
on_exit: detach
checkpoint: /nowhere/checkpoint
cpu: {rest: 3%, most: 40%}
drop_capabilities: false
controllers: [{address: "127.0.0.1:7442"}]
interfaces:
  - {name: eth7, mode: mirror, force: true, optional: true, xdp: generic, replace: true}
  - {name: eth8, hook: clsact, outbound: false}
`))
	if err != nil {
		t.Fatal(err)
	}
	o, err := options(cfg, slog.New(slog.DiscardHandler), telemetry.NewRegistry("sensor", "test"), &telemetry.Health{})
	if err != nil {
		t.Fatal(err)
	}
	if o.Name != "rack7" || o.Slots != 128 || o.Prefixes != 9 || o.Networks4 != 10 || !o.CutMirrors || o.IdleAfter != 3*time.Minute ||
		o.Backlog != 11 || o.StateFile != "/nowhere/state" {
		t.Errorf("options = %+v", o)
	}
	if o.Budget != (sensor.Budget{Rest: .03, Most: .4}) || o.DropCapabilities {
		t.Errorf("options = %+v", o)
	}
	if o.Pin != "/nowhere/bpf/rack7" || o.Checkpoint != "/nowhere/checkpoint" || o.OnExit != sensor.Detach {
		t.Errorf("options = %+v", o)
	}
	if !slices.Equal(o.Interfaces, []sensor.Interface{
		{Name: "eth7", Mode: sensor.Mirror, Force: true, Optional: true, Hook: sensor.HookAuto, XDP: sensor.XDPGeneric, Outbound: true, Replace: true},
		{Name: "eth8", Mode: sensor.Host, Hook: sensor.HookClsact, XDP: sensor.XDPAuto},
	}) {
		t.Errorf("interfaces = %+v", o.Interfaces)
	}
	if len(o.Controllers) != 1 || o.Controllers[0].Address != "127.0.0.1:7442" {
		t.Errorf("controllers = %+v", o.Controllers)
	}
}
