package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/breaker"
	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/profile"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry"
)

// safetyLimits turns the configuration into the kernel's limits.
func safetyLimits(c config.Controller) safety.Limits {
	s := c.Safety
	return safety.Limits{
		Own: c.Network.Own, Never: append(append([]netip.Prefix(nil), c.Network.Never...), peerAddresses(c)...),
		MaxRules: s.MaxRules, MaxNewPerMinute: s.MaxNewPerMinute,
		MaxRulesPerTarget: s.MaxRulesPerTarget, MaxRulesPerOwner: s.MaxRulesPerOwner,
		MaxRulesPerResponse: s.MaxRulesPerResponse, MaxRulesPerGroup: s.MaxRulesPerGroup, MaxAge: s.MaxAge,
		BlackholeMinLength4: s.BlackholeMinLength4, BlackholeMinLength6: s.BlackholeMinLength6,
		SourceMinLength4: s.SourceMinLength4, SourceMinLength6: s.SourceMinLength6, MaxOwnShare: s.MaxOwnShare, SecondPersonAbove: uint64(s.SecondPersonAbove),
		AutomaticActions: s.AutomaticActions, RedirectTargets: s.RedirectTargets, RedirectAddresses: s.RedirectAddresses,
		AllowSourceBlackhole: s.AllowSourceBlackhole,
		AllowWideBlackhole:   s.AllowWideBlackhole, AllowLongAge: s.AllowLongAge, AllowLargeShare: s.AllowLargeShare,
	}
}

// breakerOptions turns the configuration into the circuit breaker's options; nil where it is off.
func breakerOptions(c config.Controller) *breaker.Options {
	b := c.Breaker
	if !b.Enabled {
		return nil
	}
	return &breaker.Options{
		Span: b.Span, Settle: max(b.Settle, 2*c.Sensors.ReportInterval), Agreement: b.Agreement, DisputedTargets: b.DisputedTargets, OneSensorTargets: b.OneSensorTargets,
		OnDisagreement: breaker.Then(b.OnDisagreement), Before: b.Before, FallWithin: b.FallWithin, FallFor: b.FallFor,
		TargetFall: b.TargetFall, OnTargetFall: breaker.Then(b.OnTargetFall), TotalFall: b.TotalFall, TotalTargets: b.TotalTargets,
		OnTotalFall: breaker.Then(b.OnTotalFall), MaxTargets: maxTargets,
	}
}

// peerAddresses are never to be touched, whether the operator wrote them down or not: a rule against a router, or
// against our end of its session, cuts the branch we sit on.
func peerAddresses(c config.Controller) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range c.Speaker.Peers {
		for _, a := range []netip.Addr{p.Address, p.LocalAddress, p.Probe.Address} {
			if a.IsValid() {
				out = append(out, netip.PrefixFrom(a.WithZone(""), a.BitLen()))
			}
		}
	}
	return out
}

// speakerOptions turns the configuration into the speaker's options; secrets are read from their files here.
func speakerOptions(c config.Controller, version string, log *slog.Logger) (speaker.Options, error) {
	s := c.Speaker
	o := speaker.Options{
		Socket: s.Socket, Journal: s.Journal, Version: version, ASN: s.ASN, RouterID: s.RouterID,
		ListenPort: s.ListenPort, ListenAddresses: s.ListenAddresses,
		OnStop: speaker.OnStop(s.OnStop), GracefulRestart: s.GracefulRestartTime, LongLived: s.LongLivedTime, StoreWait: s.StoreWait,
		NextHop4: s.Blackhole.NextHop4, NextHop6: s.Blackhole.NextHop6, Safety: safetyLimits(c), Log: log,
	}
	if s.GracefulRestartTime == 0 {
		o.GracefulRestart = -1
	}
	for _, x := range s.Blackhole.Communities {
		o.Communities = append(o.Communities, uint32(x))
	}
	var errs []error
	told := map[string]bool{}
	profiles, err := profile.Load(s.Profiles)
	if err != nil {
		errs = append(errs, fmt.Errorf("speaker.profiles: %w", err))
	}
	// wrong tells of a value of the i-th router; of what its group says as well, once and there.
	wrong := func(i int, key string, ofGroup func(config.Peer) bool, err error) {
		at := fmt.Sprintf("speaker.peers[%d].%s", i, key)
		if g, ok := s.Group(s.Peers[i].Group); ok {
			of := s.PeerGroups[g].Of
			of.Name, of.Address = s.Peers[i].Name, s.Peers[i].Address
			if ofGroup(of.ForRouter()) {
				at = fmt.Sprintf("speaker.peer_groups[%d].%s", g, key)
			}
		}
		err = fmt.Errorf("%s: %w", at, err)
		if text := err.Error(); !told[text] {
			told[text] = true
			errs = append(errs, err)
		}
	}
	for i, p := range s.Peers {
		p = p.ForRouter()
		q := speaker.Peer{
			Name: p.Name, Group: p.Group, Address: p.Address, LocalAddress: p.LocalAddress, ASN: p.ASN, Port: int(p.Port), Passive: p.Passive,
			MultihopTTL: p.MultihopTTL, TTLSecurity: p.TTLSecurity, MaxRules: p.MaxRules, MaxItems: p.MaxItemsPerComponent, MaxCost: p.MaxCost, Widen: p.Widen, ProgramRate: p.ProgramRate,
			NextHop4: p.NextHop4, NextHop6: p.NextHop6, HoldTime: p.HoldTime, ConnectRetry: p.ConnectRetry,
		}
		if kind, ok := profiles.Get(cmp.Or(p.Profile, profile.Generic)); ok {
			q.Profile = kind.Router
			q.Probe = speaker.Probe{
				Argv: p.Probe.Run, Interval: p.Probe.Interval, Timeout: p.Probe.Timeout,
				Parser: kind.Probe.Parser, IPv4: kind.Probe.IPv4, IPv6: kind.Probe.IPv6, Counters: kind.Probe.Counters,
			}
			probeSecrets(&q.Probe, p, kind.Probe, func(key, value string, err error) {
				wrong(i, "probe."+key, func(g config.Peer) bool {
					return slices.ContainsFunc(g.Probe.Files(), func(f string) bool { return f == value })
				}, err)
			})
		} else if err == nil {
			hint := "there are " + strings.Join(profiles.Names(), ", ")
			if near := document.Nearest(p.Profile, profiles.Names()); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			wrong(i, "profile", func(g config.Peer) bool { return g.Profile == p.Profile }, fmt.Errorf("%q is not a router profile; %s", p.Profile, hint))
		}
		for _, f := range p.Families {
			q.Families = append(q.Families, compile.Table(f))
		}
		if p.MD5File != "" {
			secret, err := config.ReadSecret(p.MD5File)
			if err != nil {
				wrong(i, "md5_file", func(g config.Peer) bool { return g.MD5File == p.MD5File }, err)
			}
			q.MD5 = secret
		}
		o.Peers = append(o.Peers, q)
	}
	return o, errors.Join(errs...)
}

// RunSpeaker is the process "controller speaker"; it ends with ctx. Serving, which may be nil, is called once it serves.
func RunSpeaker(ctx context.Context, c config.Controller, version string, log *slog.Logger, serving func()) error {
	return runSpeaker(ctx, c, version, log, telemetry.NewRegistry("speaker", version), serving)
}

func runSpeaker(ctx context.Context, c config.Controller, version string, log *slog.Logger, reg telemetry.Registry, serving func()) error {
	o, err := speakerOptions(c, version, log)
	if err != nil {
		return err
	}
	o.Registerer, o.Serving = reg, serving
	t := telemetry.Options{Address: c.Speaker.Telemetry.String(), Gatherer: reg, Health: &telemetry.Health{}, Pprof: c.Pprof, Log: log}
	listener, err := telemetry.Listen(ctx, t)
	if err != nil {
		return err
	}
	var l lifecycle
	l.loop("telemetry", func(ctx context.Context) error { return telemetry.Serve(ctx, listener, t) })
	l.loop("speaker", func(ctx context.Context) error { return speaker.Run(ctx, o) })
	return l.run(ctx)
}
