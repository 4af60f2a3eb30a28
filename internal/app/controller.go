package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/engine"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/journal"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
	"github.com/amooglesoft/trafficmonitor/internal/store"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// ControllerOptions is what a controller is made of.
type ControllerOptions struct {
	Config     config.Controller
	ConfigPath string // handed to the speaker it starts
	Version    string
	Log        *slog.Logger
	// Serving is called once, when sensors and engineers are listened to. May be nil.
	Serving func()
}

// Controller is one controller. It does nothing until Run.
type Controller struct {
	o       ControllerOptions
	log     *slog.Logger
	reg     telemetry.Registry
	health  *telemetry.Health
	started time.Time
	tls     pki.Files

	policy   atomic.Pointer[loadedPolicy]
	shadow   atomic.Pointer[loadedPolicy] // nil without one
	read     string                       // the fingerprint of both, taken before they were read
	reload   chan struct{}
	store    *store.Store
	audit    *audit.Log
	engine   *engine.Engine
	ingest   *ingest.Server
	announce *engine.Announcer
	confirm  *confirmer
	speaker  *speakerWatch
	peers    []speaker.Peer // without their secrets
	restarts atomic.Int64   // of the speaker, by our supervisor
}

// loadedPolicy is the policy in force and what came of the newest attempt to replace it.
type loadedPolicy struct {
	*policy.Policy
	loaded time.Time
	err    string
}

// Bounds of the view: what one controller keeps of the network.
const (
	maxTargets  = 200_000
	forgetAfter = 10 * time.Minute
)

// NewController checks everything that can be checked without opening anything.
func NewController(o ControllerOptions) (*Controller, error) {
	c := &Controller{
		o: o, log: o.Log, reg: telemetry.NewRegistry("controller", o.Version), health: &telemetry.Health{},
		started: time.Now(), tls: pki.Files(o.Config.TLS), reload: make(chan struct{}, 1),
	}
	var errs []error
	c.read = fingerprint(o.Config.Policy, o.Config.Shadow)
	p, err := loadPolicy(o.Config)
	if err != nil {
		errs = append(errs, err)
	}
	c.policy.Store(&loadedPolicy{Policy: p, loaded: time.Now()})
	if s, err := loadShadow(o.Config); err != nil {
		errs = append(errs, err)
	} else if s != nil {
		c.shadow.Store(&loadedPolicy{Policy: s, loaded: time.Now()})
	}
	if err := safetyLimits(o.Config).Validate(); err != nil {
		errs = append(errs, fmt.Errorf("safety: %w", err))
	}
	so, err := speakerOptions(o.Config, o.Version, o.Log)
	if err != nil {
		errs = append(errs, err)
	} else if len(so.Peers) == 0 {
		o.Log.Warn("no routers are configured: attacks are shown, nothing is announced", "remedy", "add speaker.peers")
	} else if err := so.Check(); err != nil {
		errs = append(errs, fmt.Errorf("speaker: %w", err))
	}
	for _, p := range so.Peers {
		p.MD5 = ""
		c.peers = append(c.peers, p)
	}
	if c.tls.Enabled() {
		if _, err := c.tls.Server(); err != nil {
			errs = append(errs, fmt.Errorf("tls: %w", err))
		}
	}
	return c, errors.Join(errs...)
}

// shadowPolicy is nil without one.
func (c *Controller) shadowPolicy() *policy.Policy {
	if s := c.shadow.Load(); s != nil {
		return s.Policy
	}
	return nil
}

// loadShadow returns nil when there is to be none.
func loadShadow(cfg config.Controller) (*policy.Policy, error) {
	if cfg.Shadow == "" {
		return nil, nil
	}
	cfg.Policy = cfg.Shadow
	p, err := loadPolicy(cfg)
	if err != nil {
		return nil, fmt.Errorf("shadow_policy: %w", err)
	}
	return p, nil
}

// loadPolicy reads the policy and holds it against the routers there are; without any nothing is announced.
func loadPolicy(cfg config.Controller) (*policy.Policy, error) {
	if cfg.Policy == "" {
		return policy.Default(), nil
	}
	p, err := policy.Load(cfg.Policy)
	if err != nil || len(cfg.Speaker.Peers) == 0 {
		return p, err
	}
	var routers []string
	for _, peer := range cfg.Speaker.Peers {
		routers = append(routers, peer.Name)
	}
	if err := p.CheckScopes(routers); err != nil {
		return nil, err
	}
	return p, nil
}

// Reload reads the policy again; it is put in force as a whole or not at all.
func (c *Controller) Reload() {
	select {
	case c.reload <- struct{}{}:
	default:
	}
}

// Run runs the controller until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var l lifecycle
	if err := c.open(ctx, &l); err != nil {
		return errors.Join(err, l.stop(context.WithoutCancel(ctx)))
	}
	c.log.Info("controller is running", "name", c.o.Config.Name, "version", c.o.Version)
	if c.o.Serving != nil {
		c.o.Serving()
	}
	c.emit(audit.Started, "controller "+c.o.Config.Name+" started, version "+c.o.Version, nil)
	p := c.policy.Load()
	c.emit(audit.PolicyLoaded, fmt.Sprintf("policy %s is in force, hash %.12s", p.Source(), p.Hash()), map[string]string{"source": p.Source(), "hash": p.Hash()})
	return l.run(ctx)
}

// open wires everything, top to bottom.
func (c *Controller) open(ctx context.Context, l *lifecycle) (err error) {
	cfg := c.o.Config
	if err := os.MkdirAll(cfg.DataDir, 0o750); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	if c.audit, err = audit.Open(audit.Options{Dir: cfg.DataDir, Name: cfg.Name, Log: c.log, Registerer: c.reg}); err != nil {
		return err
	}
	l.onStop("audit", func(context.Context) error { return c.audit.Close() })

	t := telemetry.Options{Address: cfg.Listen.Telemetry.String(), Gatherer: c.reg, Health: c.health, Pprof: cfg.Pprof, Log: c.log}
	listener, err := telemetry.Listen(ctx, t)
	if err != nil {
		return err
	}
	l.loop("telemetry", func(ctx context.Context) error { return telemetry.Serve(ctx, listener, t) })
	if err := c.health.Register(c.reg); err != nil {
		return err
	}
	if c.tls.Enabled() {
		if err := c.tls.Register(c.reg); err != nil {
			return err
		}
	}

	so := store.Options{
		Name: cfg.Name, Address: consoleAddress(cfg), Endpoints: cfg.Store.Endpoints, DataDir: cfg.DataDir,
		LeaseTTL: cfg.Store.LeaseTTL, Keep: cfg.Store.Keep, LogKeep: cfg.Audit.Keep, LogMost: cfg.Audit.Lines, Log: c.log, Registerer: c.reg,
	}
	if f := pki.Files(cfg.Store.TLS); f.Enabled() {
		if so.TLS, err = f.Client(""); err != nil {
			return fmt.Errorf("store.tls: %w", err)
		}
	}
	c.health.Set("store", "not open yet")
	if c.store, err = store.Open(ctx, so); err != nil {
		return err
	}
	l.onStop("store", c.store.Close)
	l.loop("shared audit record", func(ctx context.Context) error { return c.audit.Share(ctx, c.store) })

	var keep func(time.Time, traffic.Report)
	var keepSamples func(time.Time, []traffic.Sample)
	if cfg.Journal.Enabled {
		j, err := journal.New(journal.Options{
			Dir: filepath.Join(cfg.DataDir, "journal"), Size: cfg.Journal.Size, Age: cfg.Journal.Age, Log: c.log, Registerer: c.reg,
		})
		if err != nil {
			return err
		}
		l.onStop("journal", func(context.Context) error { return j.Close() })
		keep = j.Report
		keepSamples = func(now time.Time, s []traffic.Sample) { j.Samples(now, "", s) }
	}
	c.ingest = ingest.NewServer(ingest.Options{
		Deliver: func(d ingest.Delivery) bool { return c.engine.Deliver(d) },
		Own:     cfg.Network.Own, Allowed: cfg.Sensors.Allowed, StaleAfter: cfg.Sensors.StaleAfter, Log: c.log, Registerer: c.reg,
	})
	var learner *baseline.Learner
	learnt := filepath.Join(cfg.DataDir, "baseline.bin")
	if cfg.Baseline.Enabled {
		learner = loadBaseline(cfg.Baseline, learnt, c.log)
	}
	client, err := speaker.Dial(cfg.Speaker.Socket)
	if err != nil {
		return err
	}
	l.onStop("speaker client", func(context.Context) error { return client.Close() })
	c.speaker = newSpeakerWatch(client, c)
	c.engine = engine.New(engine.Options{
		Baseline: learner,
		Breaker:  breakerOptions(cfg), BreakerHold: cfg.Breaker.Hold,
		Own: cfg.Network.Own, Safety: safetyLimits(cfg), Policy: c.policy.Load().Policy, Shadow: c.shadowPolicy(),
		Traffic:     traffic.Options{MaxTargets: maxTargets, StaleAfter: cfg.Sensors.StaleAfter, ForgetAfter: forgetAfter},
		DefaultHold: cfg.DefaultHold, Keep: cfg.Store.Keep, CommitTimeout: store.DefaultTimeout, RetryAfter: 10 * time.Second,
		Watch: ingest.Watch{
			SampleOneIn: cfg.Sensors.SampleOneIn, HotSampleOneIn: cfg.Sensors.HotSampleOneIn, Profiles: cfg.Sensors.Profiles,
			ReportInterval: cfg.Sensors.ReportInterval, HotInterval: cfg.Sensors.HotInterval,
			ReflectionPorts: reflectionPorts(cfg.Sensors.ReflectionPorts),
		},
		Placed: c.speaker.answers,
		Direct: c.ingest.Direct, Emit: c.emit, Journal: keep, JournalSamples: keepSamples, Log: c.log, Registerer: c.reg,
	})
	l.loop("engine", c.engine.Run)
	if learner != nil {
		l.loop("baseline", c.keepBaseline(learnt))
		l.onStop("baseline", func(context.Context) error { // the engine has ended: the learner is nobody's
			b, err := learner.AppendBinary(nil)
			return errors.Join(err, writeWhole(learnt, b))
		})
	}

	c.announce = c.engine.Announcer(client)
	c.confirm = newConfirmer(c.store, client, c.log)
	if err := c.reg.Register(situation{c}); err != nil {
		return err
	}
	if len(cfg.Speaker.Peers) > 0 {
		l.loop("announcer", c.announce.Run)
		l.loop("speaker watch", c.speaker.run)
		l.loop("speaker confirmer", c.confirm.run)
		if cfg.Speaker.Spawn {
			if err := c.supervise(l); err != nil {
				return err
			}
		}
	}

	l.loop("store watch", func(ctx context.Context) error {
		return c.store.Watch(ctx, func(s store.Snapshot) { c.engine.Follow(s); c.announce.Follow(s) })
	})
	l.loop("election", func(ctx context.Context) error {
		return c.store.Lead(ctx, func(ctx context.Context, t *store.Term) error { return c.engine.Lead(ctx, t) })
	})
	l.loop("health", c.watchHealth)
	l.loop("policy", c.reloads)
	if cfg.PolicyWatch > 0 {
		l.loop("policy watch", func(ctx context.Context) error {
			return watch(ctx, cfg.PolicyWatch, c.read, func() string { return fingerprint(cfg.Policy, cfg.Shadow) }, c.Reload)
		})
	}
	return c.serve(l)
}

func reflectionPorts(list []config.ReflectionPort) map[uint16]vector.ID {
	m := map[uint16]vector.ID{}
	for _, p := range list {
		m[p.Port] = p.Vector
	}
	return m
}

// serve opens the listeners for sensors and engineers; last, when there is something to answer with.
func (c *Controller) serve(l *lifecycle) error {
	cfg := c.o.Config
	sensors, err := rpc.NewServer(rpc.Options{
		TLS: c.tls, Roles: map[string][]string{pb.SensorService_Connect_FullMethodName: {pki.RoleSensor}},
		NotReady: c.health.NotReady, MaxMessage: 64 << 20, Log: c.log.With("component", "ingest"),
	})
	if err != nil {
		return err
	}
	c.ingest.Register(sensors)
	people, err := console.New(console.Options{System: (*system)(c), TLS: c.tls, NotReady: c.health.NotReady, Log: c.log, Registerer: c.reg})
	if err != nil {
		return err
	}
	listen := func(key string, addresses ...config.Address) (ls []net.Listener, err error) {
		for _, a := range addresses {
			if a == (config.Address{}) {
				continue
			}
			x, err := rpc.Listen(a.String(), c.tls.Enabled())
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			c.log.Info("listening", "for", key, "address", x.Addr().String(), "tls", c.tls.Enabled() && a.Path == "")
			ls = append(ls, x)
		}
		return ls, nil
	}
	sl, err := listen("listen.sensors", cfg.Listen.Sensors)
	if err != nil {
		return err
	}
	pl, err := listen("listen.console", cfg.Listen.Console, cfg.Listen.ConsoleSocket)
	if err != nil {
		for _, x := range sl {
			x.Close()
		}
		return err
	}
	if !c.tls.Enabled() {
		c.log.Warn("no certificates are configured: sensors and engineers are taken from this machine only", "remedy", "set tls.ca, tls.cert and tls.key; tmctl pki makes them")
	}
	l.loop("sensor listener", func(ctx context.Context) error { return sensors.Serve(ctx, sl...) })
	l.loop("console listener", func(ctx context.Context) error { return people.Serve(ctx, pl...) })
	return nil
}

// supervise keeps a speaker of ours running beside us; it goes on without us.
func (c *Controller) supervise(l *lifecycle) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program to start the speaker: %w", err)
	}
	s, err := speaker.NewSupervisor(speaker.SupervisorOptions{
		Socket:  c.o.Config.Speaker.Socket,
		Command: []string{self, "speaker", "--config", c.o.ConfigPath},
		OnStatus: func(s speaker.SupervisorStatus) {
			c.restarts.Store(int64(s.Restarts))
			if s.Running {
				c.health.Set("speaker process", "")
				return
			}
			c.health.Set("speaker process", s.Err)
		},
		Log: c.log.With("component", "supervisor"),
	})
	if err != nil {
		return err
	}
	l.loop("supervisor", s.Run)
	return nil
}

// consoleAddress is where other controllers send an engineer when this one leads.
func consoleAddress(c config.Controller) string {
	if a := c.Listen.Console; a != (config.Address{}) {
		return a.String()
	}
	return c.Listen.ConsoleSocket.String()
}

// emit records an event.
func (c *Controller) emit(kind audit.Kind, message string, attributes map[string]string) {
	c.audit.Record(audit.Event{Kind: kind, Message: message, Attributes: attributes})
}

// healthInterval is how often readiness is looked at.
const healthInterval = 500 * time.Millisecond

// watchHealth turns what the parts say into readiness, and into events when it changes.
func (c *Controller) watchHealth(ctx context.Context) error {
	ticker := time.NewTicker(healthInterval)
	defer ticker.Stop()
	storeWas := true
	for {
		err := c.store.Healthy()
		reason := ""
		if err != nil {
			reason = err.Error()
		}
		c.health.Set("store", reason)
		if up := err == nil; up != storeWas {
			storeWas = up
			if up {
				c.emit(audit.StoreBack, "the store answers again", nil)
			} else {
				c.emit(audit.StoreLost, "the store does not answer: announced routes stay until their deadline, nothing new is decided: "+reason, nil)
			}
		}
		leader := "nobody leads: nothing new is decided"
		if name, _, _, ok := c.store.Leader(); ok && name != "" {
			leader = ""
		}
		c.health.Set("leader", leader)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// reloadShadow puts a changed shadow policy beside the one in force; one that is wrong leaves the one before.
func (c *Controller) reloadShadow(ctx context.Context) {
	p, err := loadShadow(c.o.Config)
	if err == nil {
		err = c.engine.SetShadow(ctx, p)
	}
	if err == nil && p != nil {
		c.shadow.Store(&loadedPolicy{Policy: p, loaded: time.Now()})
	}
	if err != nil {
		if was := c.shadow.Load(); was != nil {
			c.shadow.Store(&loadedPolicy{Policy: was.Policy, loaded: was.loaded, err: err.Error()})
		}
		c.log.Error("the new shadow policy is refused; the one before stays", "source", c.o.Config.Shadow, "err", err)
		c.emit(audit.PolicyRefused, "the new shadow policy is refused; the one before stays: "+err.Error(), map[string]string{"source": c.o.Config.Shadow})
	}
}

// reloads puts a changed policy in force.
func (c *Controller) reloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.reload:
		}
		c.reloadShadow(ctx)
		now := c.policy.Load()
		p, err := loadPolicy(c.o.Config)
		if err == nil {
			err = c.engine.SetPolicy(ctx, p)
		}
		if err != nil {
			c.policy.Store(&loadedPolicy{Policy: now.Policy, loaded: now.loaded, err: err.Error()})
			c.log.Error("the new policy is refused; the running one stays", "source", c.o.Config.Policy, "err", err)
			c.emit(audit.PolicyRefused, "the new policy is refused; the running one stays: "+err.Error(), map[string]string{"source": c.o.Config.Policy})
			continue
		}
		c.policy.Store(&loadedPolicy{Policy: p, loaded: time.Now()})
	}
}
