package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// sample is what was seen at one moment.
type sample struct {
	At        float64 // seconds since the begin
	Processes map[string]figures
	Disk      map[string]float64 `json:",omitempty"` // octets below a directory
}

// figures are those of one process: memory, goroutines and descriptors, and the sizes the product tells of itself.
type figures map[string]float64

const (
	heap        = "heap"        // octets in use right after a garbage collection
	resident    = "resident"    // octets
	goroutines  = "goroutines"  //
	descriptors = "descriptors" //
)

// generic are the names under which Prometheus's library tells the first four.
var generic = map[string]string{
	"go_memstats_heap_alloc_bytes": heap, "process_resident_memory_bytes": resident,
	"go_goroutines": goroutines, "process_open_fds": descriptors,
}

// rules is how many were announced until then that concern the process: a speaker's own, all others' by speaker one.
func (x sample) rules(process string) float64 {
	if f := x.Processes[process]; f[announced] > 0 {
		return f[announced]
	}
	return x.Processes["speaker one"][announced]
}

// sizes are the product's own; all of them have a bound that this soak reaches.
var sizes = map[string]bool{
	"trafficmonitor_store_mitigations": true, "trafficmonitor_store_holds": true,
	"trafficmonitor_store_db_used_bytes": true, "trafficmonitor_routes_desired": true, "trafficmonitor_incidents_active": true,
	"trafficmonitor_view_targets": true, "trafficmonitor_view_bytes": true, "trafficmonitor_baseline_keys": true,
	"trafficmonitor_journal_segments":     true,
	"trafficmonitor_journal_queue_length": true, "trafficmonitor_audit_queue_length": true, "trafficmonitor_engine_queue_reports": true,
	"trafficmonitor_breaker_flows": true, "trafficmonitor_speaker_routes_desired": true, "trafficmonitor_speaker_routes_pending": true,
	"trafficmonitor_sensor_slots_used": true, "trafficmonitor_sensor_profiles": true, "trafficmonitor_sensor_hot_targets": true,
	"trafficmonitor_sensor_backlog_messages": true,
}

const announced = "trafficmonitor_speaker_routes_announced_total"

// read reads the figures of a process, after it gave back what it does not use.
func (d daemon) read(ctx context.Context) (figures, error) {
	if d.pprof {
		if err := d.get(ctx, "/debug/pprof/heap?gc=1", func(string) {}); err != nil {
			return nil, err
		}
	}
	f := figures{}
	err := d.get(ctx, "/metrics", func(line string) {
		series, text, _ := strings.Cut(line, " ")
		name, _, _ := strings.Cut(series, "{")
		as, ok := generic[name]
		if !ok && !sizes[name] && name != announced {
			return
		}
		if v, err := strconv.ParseFloat(text, 64); err == nil {
			if !ok {
				as = name
			}
			f[as] += v
		}
	})
	return f, err
}

func (d daemon) get(ctx context.Context, path string, line func(string)) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+path, nil)
	if err != nil {
		return err
	}
	r, err := d.http.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s%s: %s", d.url, path, r.Status)
	}
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line(lines.Text())
	}
	_, _ = io.Copy(io.Discard, r.Body)
	return lines.Err()
}

// sample asks every process. One that does not answer, as a controller that is paused, is missing in it.
func (s *stage) sample(ctx context.Context, began time.Time) sample {
	x := sample{At: time.Since(began).Seconds(), Processes: map[string]figures{}, Disk: map[string]float64{}}
	for _, d := range s.daemons {
		if f, err := d.read(ctx); err == nil {
			x.Processes[d.name] = f
		}
	}
	for _, dir := range []string{"etcd", "data-one", "data-two"} {
		_ = filepath.WalkDir(filepath.Join(s.dir, dir), func(_ string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				if i, err := e.Info(); err == nil {
					x.Disk[dir] += float64(i.Size())
				}
			}
			return nil // a file that went away meanwhile
		})
	}
	return x
}

// standing are rules by hand that must be at both routers from the begin to the end.
func standing(n int) string {
	return fmt.Sprintf("destination 10.9.255.%d/32 protocol tcp destination-port %d then discard", n, 1000+n)
}

const standings = 10

// lost names the standing rules that a router does not have.
func lost(ctx context.Context, r *lab.BIRD) (lost []string, err error) {
	have, err := r.FlowSpecRoutes(ctx, route.IPv4)
	if err != nil {
		return nil, err
	}
	is := map[string]bool{}
	for _, h := range have {
		is[h.Route.String()] = true
	}
	for n := range standings {
		if !is[standing(n)] {
			lost = append(lost, standing(n))
		}
	}
	return lost, nil
}

// rules counts what a router has.
func rules(ctx context.Context, r *lab.BIRD) (n int, err error) {
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		have, err := r.FlowSpecRoutes(ctx, f)
		if err != nil {
			return 0, err
		}
		n += len(have)
	}
	return n, nil
}

// soak lets all run for a span and judges what was seen.
func (s *stage) soak(ctx context.Context, span time.Duration, rate int) (*result, error) {
	ids := make([]string, standings)
	for n := range ids {
		m, err := s.announce(ctx, standing(n), span+20*time.Minute)
		if err != nil {
			return nil, fmt.Errorf("announce %q: %w", standing(n), err)
		}
		ids[n] = m.Id
	}
	running, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	g, running := errgroup.WithContext(running)
	for _, r := range s.replicas {
		g.Go(func() error { s.report(running, r, rate); return nil })
	}
	go s.lone.confirm(ctx) // also at the end, when all it has is that it has nothing
	g.Go(func() error { return s.lone.change(running, 10*rate) })
	g.Go(func() error { return s.flood(running) })
	g.Go(func() error { s.byHand(running); return nil })
	g.Go(func() error { return s.disturb(running, max(span/12, 20*time.Second)) })
	r := &result{Span: span}
	began, told := time.Now(), time.Now()
	for pause(running, min(5*time.Second, span/60)) {
		calm := !s.forgiven()
		x := s.sample(running, began)
		if running.Err() != nil {
			break
		}
		r.Samples = append(r.Samples, x)
		for _, y := range []*lab.BIRD{s.replicas[0].router, s.replicas[1].router, s.lone.router} {
			lost, err := lost(running, y)
			if (calm && !s.forgiven() || y == s.lone.router) && running.Err() == nil && (err != nil || len(lost) > 0) {
				r.Failures = append(r.Failures, fmt.Sprintf("after %.0f s %s lacks %q: %v", x.At, y.Name(), lost, err))
			}
		}
		if time.Since(told) > min(time.Minute, span/6) {
			told = time.Now()
			fmt.Printf("  %4.0f s", x.At)
			for _, p := range []string{"controller one", "speaker one", "speaker three"} {
				fmt.Printf("   %s: %.0f rules, heap %s", p, x.rules(p), octets(x.Processes[p][heap]))
			}
			fmt.Println()
		}
	}
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.forgive(0)
	s.end(ctx, r, ids)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.panics {
		r.Failures = append(r.Failures, "a process panicked: "+p)
	}
	for what, n := range s.errors {
		r.Failures = append(r.Failures, fmt.Sprintf("%d lines of level error that nothing provoked: %s", n, what))
	}
	r.Counts, r.Errors = s.counts, s.errors
	r.judge(span.Seconds())
	return r, nil
}

// end withdraws what stands and demands that nothing is left anywhere.
func (s *stage) end(ctx context.Context, r *result, ids []string) {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	errs := []error{lab.Until(ctx, "the router of the lone speaker to have no rule left", func(ctx context.Context) error {
		if n, err := rules(ctx, s.lone.router); n > 0 || err != nil {
			return fmt.Errorf("it has %d: %v", n, err)
		}
		return nil
	})}
	for _, id := range ids {
		errs = append(errs, lab.Until(ctx, "a withdrawal", func(ctx context.Context) error { return s.withdraw(ctx, id) }))
	}
	for _, y := range s.replicas {
		errs = append(errs, lab.Until(ctx, "controller and router "+y.name+" to have no rule left", func(ctx context.Context) error {
			n, err := rules(ctx, y.router)
			if err != nil {
				return err
			}
			m, err := y.console.ListMitigations(ctx, &pb.ListMitigationsRequest{})
			if err != nil {
				return err
			}
			if n+len(m.Mitigations) > 0 {
				return fmt.Errorf("the router has %d rules, the controller %d mitigations or more", n, len(m.Mitigations))
			}
			return nil
		}))
	}
	if err := errors.Join(errs...); err != nil {
		r.Failures = append(r.Failures, "at the end: "+err.Error())
	}
}
