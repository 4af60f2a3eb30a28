// Package trafficmonitor_test keeps the architecture: which package may import which, and what the core may not do.
package trafficmonitor_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/amooglesoft/trafficmonitor"

// core is deterministic: no I/O, goroutine, clock or hidden randomness. It imports itself and these.
var core = []string{
	"internal/route", "internal/vector", "internal/traffic", "internal/detect", "internal/signature", "internal/mitigation",
	"internal/safety", "internal/compile", "internal/sketch", "internal/baseline", "internal/breaker", "policy",
}

var pure = []string{
	"cmp", "crypto/sha256", "encoding/binary", "encoding/hex", "errors", "fmt", "hash/crc32", "hash/maphash", "iter", "maps", "math",
	"math/bits", "net/netip", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8",
}

// corePlus is what one core package may import besides, and why.
var corePlus = map[string][]string{
	// The JSON form of a route, from octets and to octets.
	"internal/route": {"bytes", "encoding/json", "io"},
	// The shipped policy, and reading the language; evaluating it is pure. So is CEL without its functions of time.
	"policy": {"embed", "internal/document", "regexp", "github.com/google/cel-go/cel", "github.com/google/cel-go/common/ast", "github.com/google/cel-go/common/env", "github.com/google/cel-go/common/types", "github.com/google/cel-go/common/types/ref"},
}

// owners says which packages, and what lies below them, may import what lies below a path. An adapter keeps its technology
// to itself.
var owners = []struct {
	path string
	by   []string
	test []string // these, too, in their tests
}{
	{"github.com/osrg/gobgp", []string{"internal/speaker", "test/benchbgp"}, nil}, // the bench measures beside it
	{"github.com/gosnmp/gosnmp", []string{"internal/probe"}, nil},
	{"github.com/openconfig/gnmi", []string{"internal/probe"}, nil},
	{"go.etcd.io/etcd", []string{"internal/store", "test/soak"}, nil}, // the soak's controllers share one
	{"github.com/google/cel-go", []string{"policy"}, nil},
	{"go.yaml.in/yaml", []string{"internal/document", "test/e2e/clab", "test/alerts"}, nil}, // files of containerlab, Prometheus and Grafana are not ours to define
	{"gopkg.in/yaml", nil, nil},
	{"github.com/cilium/ebpf", []string{"internal/sensor", "internal/lab"}, []string{"test/kernels"}},
	{"github.com/vishvananda/netlink", []string{"internal/sensor", "internal/lab", "test"}, []string{"cmd"}},
	{"github.com/vishvananda/netns", []string{"internal/sensor", "internal/lab", "test"}, []string{"cmd"}},
	{"github.com/spf13/cobra", []string{"internal/tmctl", "cmd"}, nil},
	{
		module + "/api",
		[]string{
			"internal/ingest", "internal/console", "internal/speaker", "internal/sensor", "internal/tmctl", "cmd/tmctl", "test",
			"internal/app", // names the services and their methods
		},
		[]string{"internal/rpc", "cmd"},
	},
	{module + "/internal/config", []string{"internal/app", "cmd"}, []string{"internal/lab", "test"}},
	{module + "/internal/engine", []string{"internal/app"}, nil},
	{module + "/internal/app", []string{"cmd", "test"}, nil},
	{module + "/internal/scenario", []string{"test"}, []string{"internal"}},   // generated traffic is for tests and the score card
	{module + "/internal/lab", []string{"test"}, []string{"internal", "cmd"}}, // tests need NeedRoot and real routers
	{module + "/cmd", nil, nil},
	{module + "/test", nil, nil},
}

type pkg struct {
	Dir, ImportPath, Name, Doc         string
	Imports, TestImports, XTestImports []string
	GoFiles, TestGoFiles, XTestGoFiles []string
}

// short is the path inside the module; "." is its root.
func (p pkg) short() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func packages(t *testing.T) []pkg {
	t.Helper()
	// go test caches results by the files and directories a test opened itself. What go list reads it does not see; so
	// look into every directory here.
	err := filepath.WalkDir(".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains([]string{".git", "bin", "build"}, d.Name()) {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-json=Dir,ImportPath,Name,Doc,Imports,TestImports,XTestImports,GoFiles,TestGoFiles,XTestGoFiles", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// below reports whether a path is one of list, or below one.
func below(path string, list ...string) bool {
	return slices.ContainsFunc(list, func(l string) bool { return path == l || strings.HasPrefix(path, l+"/") })
}

func TestDirection(t *testing.T) {
	all := packages(t)
	for _, want := range core {
		if !slices.ContainsFunc(all, func(p pkg) bool { return p.short() == want }) {
			t.Errorf("core package %s is gone: take it out of the list", want)
		}
	}
	for _, p := range all {
		if slices.Contains(core, p.short()) {
			for _, imp := range p.Imports {
				inner, ours := strings.CutPrefix(imp, module+"/")
				if ours && slices.Contains(core, inner) || slices.Contains(pure, imp) ||
					slices.Contains(corePlus[p.short()], imp) || ours && slices.Contains(corePlus[p.short()], inner) {
					continue
				}
				t.Errorf("%s is core and stays pure, but imports %s", p.short(), imp)
			}
		}
		for _, o := range owners {
			if below(p.ImportPath, o.path) {
				continue // at home
			}
			check := func(imports, allowed []string, in string) {
				for _, imp := range imports {
					if below(imp, o.path) && !below(p.short(), allowed...) {
						t.Errorf("%s%s imports %s; only %v may", p.short(), in, imp, allowed)
					}
				}
			}
			check(p.Imports, o.by, "")
			check(slices.Concat(p.TestImports, p.XTestImports), slices.Concat(o.by, o.test), " (test)")
		}
	}
}

// forbidden are the functions that read a clock, wait, or draw a random number.
var forbidden = map[string][]string{
	"time": {"Now", "Since", "Until", "After", "AfterFunc", "Tick", "Sleep", "NewTimer", "NewTicker"},
}

func TestCoreIsDeterministic(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(core, p.short()) {
			continue
		}
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				at := func() string { return filepath.Join(p.short(), name) + ":" + strconv.Itoa(fset.Position(n.Pos()).Line) }
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s starts a goroutine: the core has none", at())
				case *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
					t.Errorf("%s uses a channel: the core has none", at())
				case *ast.SelectorExpr:
					if id, ok := n.X.(*ast.Ident); ok && id.Obj == nil && slices.Contains(forbidden[id.Name], n.Sel.Name) {
						t.Errorf("%s uses %s.%s: the core takes now as an argument", at(), id.Name, n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// Nothing happens before main, and only main ends the process. The lab, which is no part of the product, may: it takes
// its namespaces down when a test is interrupted.
func TestNoHiddenState(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if ast.IsGenerated(file) {
				continue
			}
			ast.Inspect(file, func(n ast.Node) bool {
				at := func() string { return filepath.Join(p.short(), name) + ":" + strconv.Itoa(fset.Position(n.Pos()).Line) }
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Name.Name == "init" && n.Recv == nil {
						t.Errorf("%s: func init: wire it by hand, where it is seen", at())
					}
				case *ast.SelectorExpr:
					id, ok := n.X.(*ast.Ident)
					if !ok || id.Obj != nil {
						return true
					}
					call := id.Name + "." + n.Sel.Name
					if p.Name != "main" && p.short() != "internal/lab" && (call == "os.Exit" || strings.HasPrefix(call, "log.Fatal") || strings.HasPrefix(call, "log.Panic")) {
						t.Errorf("%s: %s outside main: return an error", at(), call)
					}
					if call == "prometheus.MustRegister" || call == "prometheus.DefaultRegisterer" || strings.HasPrefix(call, "promauto.New") {
						t.Errorf("%s: %s: register on the injected Registerer, for two apps run in one process", at(), call)
					}
				}
				return true
			})
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		start := "Package " + p.Name + " "
		if p.Name == "main" {
			start = "Command " + filepath.Base(p.ImportPath) + " "
		}
		if generatedOnly(t, p) {
			continue
		}
		if !strings.HasPrefix(p.Doc, start) || !strings.HasSuffix(strings.TrimSpace(p.Doc), ".") {
			t.Errorf("%s: the package comment is %q; it is a sentence that starts with %q", p.short(), p.Doc, start)
		}
	}
}

func generatedOnly(t *testing.T, p pkg) bool {
	t.Helper()
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if !ast.IsGenerated(file) {
			return false
		}
	}
	return true
}
