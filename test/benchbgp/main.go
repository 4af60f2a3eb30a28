// Command benchbgp measures how fast rules reach routers, and how an urgent one passes a backlog, beside a bare GoBGP that
// does nothing but inject the same: both in one run, by turns, counted where they arrive.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "bare" {
		exit(bare())
	}
	program := flag.String("controller", "bin/controller", "our program")
	rounds := flag.Int("rounds", 5, "how often each is measured with 1,000 and 10,000 rules; with 1 rule forty times as often")
	out := flag.String("out", "build/bench-bgp.json", "where the figures go")
	docs := flag.String("docs", "", "a document to write the table into")
	flag.Parse()
	exit(run(*program, *rounds, *out, *docs))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchbgp:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(program string, rounds int, out, docs string) error {
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	r := newReport(program)
	for _, peers := range []int{1, 4} {
		if err := r.measure(program, peers, rounds); err != nil {
			return fmt.Errorf("%d routers: %w", peers, err)
		}
	}
	for _, rate := range []int{0, 250} {
		if err := r.measureUrgent(program, rate, 4*rounds); err != nil {
			return fmt.Errorf("urgent rule at program_rate %d: %w", rate, err)
		}
	}
	r.judge()
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(out, append(text, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Println(r.table())
	if docs != "" {
		return r.writeDocs(docs)
	}
	return nil
}

// contender is one process with the routers it announces to.
type contender struct {
	name    string
	sender  sender
	routers []*router
}

// begin starts both, each with routers of its own, and waits for the sessions. End with stop.
func begin(program string, peers, programRate int, bareToo bool) (both []contender, stop func(), err error) {
	dir, err := os.MkdirTemp("", "benchbgp")
	if err != nil {
		return nil, nil, err
	}
	stop = func() {
		for _, c := range both {
			if c.sender != nil {
				c.sender.stop()
			}
			for _, r := range c.routers {
				r.ln.Close()
			}
		}
		os.RemoveAll(dir)
	}
	for i, name := range []string{"ours", "bare"} {
		if name == "bare" && !bareToo {
			break
		}
		c := contender{name: name}
		for n := range peers {
			r, err := newRouter(fmt.Sprintf("127.0.%d.%d", 10+i, n+1))
			if err != nil {
				return both, stop, err
			}
			c.routers = append(c.routers, r)
		}
		both = append(both, c)
		var s sender
		if name == "ours" {
			s, err = startOurs(program, dir, c.routers, programRate)
		} else {
			s, err = startBare(c.routers, netip.MustParseAddr("10.66.0.2"))
		}
		if err != nil {
			return both, stop, err
		}
		both[i].sender = s
		if err := s.prepare(10_000); err != nil {
			return both, stop, err
		}
		for _, r := range c.routers {
			if err := r.awaitUp(); err != nil {
				return both, stop, err
			}
		}
	}
	return both, stop, nil
}

// change makes n rules what is announced and returns how long it took until the last router had them all.
func (c contender) change(n int) (time.Duration, error) {
	begin := time.Now()
	if err := c.sender.set(n, false); err != nil {
		return 0, err
	}
	var last time.Time
	for _, r := range c.routers {
		at, err := r.awaitCount(n)
		if err != nil {
			return 0, err
		}
		if at.After(last) {
			last = at
		}
	}
	return last.Sub(begin), nil
}

func (r *report) measure(program string, peers, rounds int) error {
	both, stop, err := begin(program, peers, 0, true)
	if stop != nil {
		defer stop()
	}
	if err != nil {
		return err
	}
	for _, n := range []int{1, 1000, 10_000} {
		times := rounds
		if n == 1 {
			times *= 40
		}
		samples := map[string][]float64{}
		worked := map[string]time.Duration{}
		for i := range times + 1 {
			for j := range both {
				c := both[(i+j)%len(both)] // by turns first
				before := cpu(c.sender.process())
				up, err := c.change(n)
				if err != nil {
					return fmt.Errorf("%s, announce %d: %w", c.name, n, err)
				}
				if n == 10_000 {
					r.memory(c, peers)
				}
				down, err := c.change(0)
				if err != nil {
					return fmt.Errorf("%s, withdraw %d: %w", c.name, n, err)
				}
				if i == 0 {
					continue // the first fills caches
				}
				worked[c.name] += cpu(c.sender.process()) - before
				samples[c.name+"/announce"] = append(samples[c.name+"/announce"], ms(up))
				samples[c.name+"/withdraw"] = append(samples[c.name+"/withdraw"], ms(down))
			}
		}
		for _, what := range []string{"announce", "withdraw"} {
			r.add(what, n, peers, samples["ours/"+what], samples["bare/"+what])
		}
		if n > 1 {
			k := fmt.Sprintf("rules=%d/routers=%d", n, peers)
			per := func(name string) float64 {
				return float64(worked[name].Microseconds()) / float64(2*n*times)
			}
			r.CPU[k] = pairOf{per("ours"), per("bare")}
		}
	}
	return nil
}

// measureUrgent announces 10,000 rules, and an urgent one while they are still on their way.
func (r *report) measureUrgent(program string, rate, times int) error {
	both, stop, err := begin(program, 1, rate, rate == 0)
	if stop != nil {
		defer stop()
	}
	if err != nil {
		return err
	}
	const backlog = 10_000
	for _, c := range both {
		u := urgent{ProgramRate: rate}
		var took, behind []float64
		if rate > 0 { // at this rate the backlog outlives all rounds
			if err := c.sender.set(backlog, false); err != nil {
				return err
			}
		}
		for range times {
			if rate == 0 {
				// Not answered before the whole set is handed over; the urgent rule is asked for then.
				if err := c.sender.set(backlog, false); err != nil {
					return err
				}
			}
			begin := time.Now()
			if err := c.sender.set(backlog, true); err != nil {
				return err
			}
			handed := time.Since(begin)
			at, others, err := c.routers[0].awaitRule(urgentNLRI())
			if err != nil {
				return err
			}
			took, behind = append(took, ms(at.Sub(begin))), append(behind, float64(backlog-others))
			u.HandedOver = append(u.HandedOver, ms(handed))
			if rate > 0 {
				if backlog == others {
					return fmt.Errorf("no backlog is left after %d rounds", len(took))
				}
				if err := c.sender.set(backlog, false); err != nil {
					return err
				}
				if _, err := c.routers[0].await("the urgent rule's end", func() bool { return !c.routers[0].held[string(urgentNLRI())] }); err != nil {
					return err
				}
				continue
			}
			if _, err := c.routers[0].awaitCount(backlog + 1); err != nil {
				return err
			}
			if _, err := c.change(0); err != nil {
				return err
			}
		}
		u.Took, u.Behind, u.Handed = spreadOf(took), spreadOf(behind), spreadOf(u.HandedOver)
		u.HandedOver = nil
		r.Urgent[c.name] = append(r.Urgent[c.name], u)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
