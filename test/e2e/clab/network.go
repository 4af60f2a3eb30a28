package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// patience is how long anything may take that is not what is tested.
const patience = time.Minute

// network is a deployed topology, and what was tried on it so far.
type network struct {
	name     string
	docker   *docker
	o        options
	ctx      context.Context // of the steps
	topology topology
	passed   int
	err      error // of the step that failed
}

func (n *network) file() string { return filepath.Join(source, n.name+".clab.yml") }
func (n *network) lab() string  { return "tm-" + n.name }

// container is the name of a node's container.
func (n *network) container(node string) string { return "clab-" + n.lab() + "-" + node }

func (n *network) containerlab(ctx context.Context, args ...string) (string, error) {
	if err := os.MkdirAll(home+"/labs", 0o700); err != nil {
		return "", err
	}
	env := n.docker.env("CLAB_VERSION_CHECK=disable", "CLAB_LABDIR_BASE="+home+"/labs", "TM_BIN="+n.o.bin, "TM_PKI="+filepath.Join(n.o.cache, "pki"))
	return output(ctx, env, nil, n.o.containerlab, args...)
}

// deploy brings the topology up. containerlab says 0 whatever became of its nodes, so they are counted.
func (n *network) deploy() {
	n.topology, n.err = readTopology(n.file())
	n.do(fmt.Sprintf("%d nodes run", len(n.topology.nodes())), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
		out, err := n.containerlab(ctx, "deploy", "--topo", n.file())
		if err != nil {
			return err
		}
		states, err := n.states(ctx)
		if err != nil {
			return err
		}
		var missing []string
		for _, node := range n.topology.nodes() {
			if states[n.container(node)] != "running" {
				missing = append(missing, node+" "+states[n.container(node)])
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("not running: %s\n%s", strings.Join(missing, ", "), out)
		}
		return nil
	})
}

// states are the containers of the topology with their states.
func (n *network) states(ctx context.Context) (map[string]string, error) {
	out, err := n.docker.run(ctx, "ps", "--all", "--filter", "label=containerlab="+n.lab(), "--format", "{{.Names}} {{.State}}")
	states := map[string]string{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 {
			states[f[0]] = f[1]
		}
	}
	return states, err
}

// exists reports whether there is anything of the topology.
func (n *network) exists(ctx context.Context) (bool, error) {
	states, err := n.states(ctx)
	if err != nil {
		return false, err
	}
	networks, err := n.docker.run(ctx, "network", "ls", "--quiet", "--filter", "name=^"+n.lab()+"$")
	return len(states) > 0 || networks != "", err
}

// destroy takes the topology down, and by force what containerlab left of it.
func (n *network) destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	_, err := n.containerlab(ctx, "destroy", "--topo", n.file(), "--cleanup")
	states, errStates := n.states(ctx)
	errs := []error{err, errStates}
	for name := range states {
		_, err := n.docker.run(ctx, "rm", "--force", "--volumes", name)
		errs = append(errs, fmt.Errorf("containerlab left container %s", name), err)
	}
	if left, err := n.exists(ctx); left || err != nil {
		_, errRemove := n.docker.run(ctx, "network", "rm", n.lab())
		errs = append(errs, fmt.Errorf("containerlab left network %s", n.lab()), err, errRemove)
	}
	return errors.Join(errs...)
}

// do is one step of a scenario, and tells how it went. After one that failed the others are not tried, for each stands on
// the one before.
func (n *network) do(name string, step func(context.Context) error) {
	if n.err != nil {
		return
	}
	began := time.Now()
	if err := step(n.ctx); err != nil {
		n.err = fmt.Errorf("%s: %w", name, err)
		return
	}
	n.passed++
	log.Printf("   ok %6.1fs  %s", time.Since(began).Seconds(), name)
}

// until is a step that waits for something.
func (n *network) until(name string, check func(context.Context) error) {
	n.do(name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		var last error // what the check says that the deadline cuts off is not the reason
		err := lab.Until(ctx, name, func(ctx context.Context) error {
			err := check(ctx)
			if ctx.Err() == nil {
				last = err
			}
			return err
		})
		if err != nil && last != nil {
			return fmt.Errorf("not within %v: %w", patience, last)
		}
		return err
	})
}

// exec runs a program in a node.
func (n *network) exec(ctx context.Context, node string, argv ...string) (string, error) {
	return n.docker.run(ctx, slices.Concat([]string{"exec", n.container(node)}, argv)...)
}

// ask has tmctl ask the controller of a node. Exit code 4 is an answer: something is not well.
func ask[M proto.Message](ctx context.Context, n *network, node string, m M, args ...string) (M, error) {
	out, err := n.exec(ctx, node, slices.Concat([]string{"tmctl", "-o", "json"}, args)...)
	if err != nil && !strings.Contains(err.Error(), "exit status 4") {
		return m, err
	}
	if err := protojson.Unmarshal([]byte(out), m); err != nil {
		return m, fmt.Errorf("tmctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return m, nil
}

// failed tells what went wrong, with what the nodes have to say.
func (n *network) failed() {
	log.Printf("   FAILED: %v", n.err)
	ctx, cancel := context.WithTimeout(n.ctx, time.Minute)
	defer cancel()
	for _, node := range n.topology.nodes() {
		cmd := "docker logs --tail 15 " + n.container(node) + " 2>&1"
		if out, err := output(ctx, n.docker.env(), nil, "sh", "-c", cmd); err == nil && out != "" {
			log.Printf("   --- %s\n%s", node, out)
		}
	}
}

// explain says how to look at a topology that is left running.
func (n *network) explain() {
	log.Printf("   left running: export DOCKER_HOST=%s; docker exec -it %s sh\n   take it away: make clab-down", n.docker.host, n.container(n.topology.nodes()[0]))
}
