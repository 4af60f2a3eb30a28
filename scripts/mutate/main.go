// Command mutate breaks the safety kernel on purpose and demands that its tests notice.
//
// It removes each invariant's line from the tables of checks in turn and runs the test of the same name, which must go
// red. With -operators it also swaps every comparison and logical operator of the kernel and of the FlowSpec encoder, and
// runs all their tests; what survives there is printed, for a person to judge. The files on disk are never changed:
// each mutant is a build overlay.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
)

const kernel = "internal/safety"

func main() {
	operators := flag.Bool("operators", false, "also swap every operator and run all tests (takes minutes)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *operators)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// mutant is one changed file.
type mutant struct {
	file, what string
	text       []byte
}

func run(ctx context.Context, operators bool) error {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	names, err := invariants()
	if err != nil {
		return err
	}
	if err := test(ctx, dir, mutant{}, "./"+kernel); err != nil {
		return fmt.Errorf("the tests are red before anything is broken: %w", err)
	}
	missed, removed := 0, map[string]bool{}
	for _, file := range []string{"checks.go", "quota.go"} {
		path := filepath.Join(kernel, file)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, line := range regexp.MustCompile(`(?m)^\t\{(\w+), \w+\},\n`).FindAllSubmatchIndex(text, -1) {
			constant := string(text[line[2]:line[3]])
			name, ok := names[constant]
			if !ok {
				return fmt.Errorf("%s: %s is no invariant", path, constant)
			}
			removed[constant] = true
			without := append(append([]byte(nil), text[:line[0]]...), text[line[1]:]...)
			err := test(ctx, dir, mutant{path, "", without}, "-run", "^TestInvariants$/^"+name+"$", "-v", "./"+kernel)
			var red *redError
			switch {
			case errors.As(err, &red) && bytes.Contains(red.output, []byte("--- FAIL: TestInvariants/"+name)):
				fmt.Printf("red    without %s, as it must be\n", name)
			case err == nil:
				missed++
				fmt.Printf("GREEN  without %s: no test holds it\n", name)
			default:
				return fmt.Errorf("without %s: %w", name, err)
			}
		}
	}
	for constant, name := range names {
		if !removed[constant] {
			missed++
			fmt.Printf("GREEN  %s stands in no table of checks\n", name)
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d invariants are not held by a test", missed)
	}
	fmt.Printf("all %d invariants are held by a test\n", len(names))
	if operators {
		return swapAll(ctx, dir)
	}
	return nil
}

// invariants returns the label of each Invariant constant.
func invariants() (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(kernel, "safety.go"))
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\t(\w+)\s+Invariant = "(\w+)"`).FindAllSubmatch(text, -1) {
		names[string(m[1])] = string(m[2])
	}
	if len(names) == 0 {
		return nil, errors.New("found no invariants: did the constants move?")
	}
	return names, nil
}

// redError is a test run that failed.
type redError struct{ output []byte }

func (e *redError) Error() string { return "tests failed:\n" + string(e.output) }

// test runs go test over a mutant. The error is a *redError when tests failed, another when they could not be built.
func test(ctx context.Context, dir string, m mutant, args ...string) error {
	args = append([]string{"test", "-count=1"}, args...)
	if m.file != "" {
		changed := filepath.Join(dir, filepath.Base(m.file))
		if err := os.WriteFile(changed, m.text, 0o600); err != nil {
			return err
		}
		at, err := filepath.Abs(m.file)
		if err != nil {
			return err
		}
		overlay, err := json.Marshal(map[string]map[string]string{"Replace": {at: changed}})
		if err != nil {
			return err
		}
		list := filepath.Join(dir, "overlay.json")
		if err := os.WriteFile(list, overlay, 0o600); err != nil {
			return err
		}
		args = append([]string{"test", "-overlay", list}, args[1:]...)
	}
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return nil
	case bytes.Contains(out, []byte("[build failed]")) || bytes.Contains(out, []byte("[setup failed]")):
		return fmt.Errorf("build: %s", out)
	}
	return &redError{out}
}

var swaps = map[token.Token]token.Token{
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.EQL: token.NEQ, token.NEQ: token.EQL, token.LAND: token.LOR, token.LOR: token.LAND,
}

func swapAll(ctx context.Context, dir string) error {
	files, err := filepath.Glob(kernel + "/*.go")
	if err != nil {
		return err
	}
	total, survived := 0, 0
	for _, path := range append(files, "internal/route/nlri.go", "internal/route/extended.go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		mutants, err := swapped(path)
		if err != nil {
			return err
		}
		for _, m := range mutants {
			err := test(ctx, dir, m, "-timeout", "60s", "./"+kernel, "./internal/route")
			var red *redError
			switch {
			case err == nil:
				survived++
				fmt.Println("GREEN ", m.what)
			case !errors.As(err, &red):
				if ctx.Err() != nil {
					return ctx.Err()
				}
				continue // does not compile: no mutant
			}
			total++
		}
	}
	fmt.Printf("%d operators swapped, %d of them noticed by no test\n", total, survived)
	return nil
}

// swapped returns a mutant for each operator of a file.
func swapped(path string) ([]mutant, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, text, 0)
	if err != nil {
		return nil, err
	}
	var out []mutant
	ast.Inspect(file, func(n ast.Node) bool {
		e, ok := n.(*ast.BinaryExpr)
		if !ok {
			return true
		}
		other, ok := swaps[e.Op]
		if !ok {
			return true
		}
		at := fset.Position(e.OpPos)
		changed := append([]byte(nil), text[:at.Offset]...)
		changed = append(changed, other.String()...)
		changed = append(changed, text[at.Offset+len(e.Op.String()):]...)
		line := strings.TrimSpace(strings.Split(string(text), "\n")[at.Line-1])
		out = append(out, mutant{path, fmt.Sprintf("%s: %s becomes %s in: %s", at, e.Op, other, line), changed})
		return true
	})
	return out, nil
}
