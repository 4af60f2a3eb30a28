package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab/enforce"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Enforce makes the kernel of the router's namespace drop what BIRD's FlowSpec rules say, from now until the lab is
// closed: BIRD itself has no data plane for them.
func (b *BIRD) Enforce() *enforce.Shim {
	nft := &nftables{in: b.in}
	shim := enforce.New(enforce.Options{
		Rules:   b.rulesInForce,
		Changed: b.changed,
		NFT:     nft.run,
		Log:     b.in.lab.log.With("component", "enforce", "router", b.Name()),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		shim.Run(ctx)
	}()
	b.in.lab.OnClose(func() {
		cancel()
		<-done
		nft.mu.Lock()
		defer nft.mu.Unlock()
		nft.close()
	})
	return shim
}

// rulesInForce returns the rules the router would apply: the best path of each, and none that is unreachable.
func (b *BIRD) rulesInForce(ctx context.Context) ([]route.Route, error) {
	var out []route.Route
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		rules, err := b.FlowSpecRoutes(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			if r.Best && !r.Unreachable {
				out = append(out, r.Route)
			}
		}
	}
	return out, nil
}

// nftables runs nft in a namespace. One interactive nft is kept, which takes a change in a millisecond where a new
// process takes ten and more on a busy machine; when it does not answer, a new process is what remains.
type nftables struct {
	in *Namespace

	mu    sync.Mutex
	stdin *os.File        // guarded by mu: of the interactive nft; nil when there is none
	lines chan string     // guarded by mu: what it prints
	dead  <-chan struct{} // guarded by mu: closed when it ended
	round int             // guarded by mu
}

// run runs nft with arguments and standard input.
func (n *nftables) run(ctx context.Context, stdin string, args ...string) (string, error) {
	if !slices.Equal(args, []string{"-f", "-"}) {
		return n.once(ctx, stdin, args...)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stdin == nil {
		if err := n.open(); err != nil {
			return n.once(ctx, stdin, args...)
		}
	}
	out, err := n.ask(ctx, stdin)
	if err != nil {
		n.close()
		return n.once(ctx, stdin, args...)
	}
	if out != "" {
		return out, errors.New("refused")
	}
	return "", nil
}

func (n *nftables) open() error {
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	defer pr.Close()
	lines := make(chan string, 1024)
	onLine := func(line string) {
		select {
		case lines <- line:
		default: // nobody asked
		}
	}
	// Its output is answers, not a log.
	p, err := n.in.start(Command{Name: "nft", Argv: []string{"nft", "-i"}, stdin: pr, OnLine: onLine}, io.Discard)
	if err != nil {
		return errors.Join(err, pw.Close())
	}
	n.stdin, n.lines, n.dead = pw, lines, p.Done()
	return nil
}

// close is called with mu held.
func (n *nftables) close() {
	if n.stdin != nil {
		n.stdin.Close() // nft ends at the end of its input
		n.stdin = nil
	}
}

// ask has the interactive nft take a script as one transaction and returns its complaints. nft says nothing of success:
// a question about a table that does not exist, asked next, is answered by an error that says the script is done.
func (n *nftables) ask(ctx context.Context, script string) (string, error) {
	n.round++
	marker := fmt.Sprintf("list table inet done_%d", n.round)
	line := strings.Join(strings.Split(strings.TrimSpace(script), "\n"), "; ")
	if err := n.stdin.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		return "", err
	}
	if _, err := fmt.Fprintf(n.stdin, "%s\n%s\n", line, marker); err != nil {
		return "", err
	}
	var complaints []string
	for {
		select {
		case l := <-n.lines:
			switch {
			case l == marker:
				// The line before is the answer to the marker.
				return strings.Join(complaints[:max(len(complaints)-1, 0)], "\n"), nil
			case strings.Trim(l, " ^~\t") != "" && l != line:
				complaints = append(complaints, l)
			}
		case <-n.dead:
			return "", errors.New("nft ended")
		case <-time.After(2 * time.Second):
			return "", errors.New("nft does not answer")
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// once runs one nft process.
func (n *nftables) once(ctx context.Context, stdin string, args ...string) (string, error) {
	var out output
	p, err := n.in.start(Command{Argv: append([]string{"nft"}, args...), stdin: strings.NewReader(stdin)}, &out)
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		err := errors.Join(ctx.Err(), p.Kill())
		<-p.Done()
		return out.String(), err
	}
	if p.err != nil {
		return out.String(), fmt.Errorf("nft %s in %s: %w", strings.Join(args, " "), n.in.name, p.err)
	}
	return out.String(), nil
}
