package policy

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/env"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/amooglesoft/trafficmonitor/internal/document"
)

// The bounds of an expression. A name costs 1, an operator or a function 1 and more with the length of a text: what an
// operator writes costs below 100.
const (
	maxExpression = 500 // characters
	maxCost       = 2000
)

// name is a name an expression may use.
type name struct {
	name string
	typ  *cel.Type
	says string
}

// language is what one kind of expression may say: CEL (https://cel.dev) with these names and none but the functions
// that need neither loops nor a clock.
type language struct {
	env   *cel.Env
	names []name
}

// functions are those of CEL's standard library that an expression may use.
var functions = []string{
	"_&&_", "_||_", "!_", "_?_:_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_+_", "_-_", "_*_", "_/_", "_%_", "-_", "@in", "in",
	"startsWith", "endsWith", "contains", "size", "duration", "double", "int",
}

func newLanguage(names []name, constants ...document.Constant) *language {
	subset := env.NewLibrarySubset().SetDisableMacros(true)
	for _, f := range functions {
		subset.AddIncludedFunctions(env.NewFunction(f))
	}
	o := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(subset)), cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(50),
	}
	for _, n := range names {
		o = append(o, cel.Variable(n.name, n.typ))
	}
	for _, c := range constants {
		t, v := valueOf(c)
		o = append(o, cel.Constant(mark+c.Name, t, v))
		names = append(slices.Clip(names), name{mark + c.Name, t, ""})
	}
	e, err := cel.NewCustomEnv(o...)
	if err != nil {
		panic(fmt.Sprintf("the language of conditions: %v", err)) // a test makes it
	}
	return &language{e, names}
}

// mark stands for the dollar of a constant's name in an expression, so that every character keeps its place.
const mark = "_"

// valueOf is a constant as a value of an expression: a number where it is one, or a rate, multiple or percentage; a duration;
// else a text, or a list of texts.
func valueOf(c document.Constant) (*cel.Type, ref.Val) {
	if c.List {
		return cel.ListType(cel.StringType), types.NewStringList(types.DefaultTypeAdapter, c.Values)
	}
	text := c.Values[0]
	for _, parse := range []func(string) (float64, error){document.PPS().Parse, document.BPS().Parse, document.Percent(0, 1).Parse, multiple(0, 1e9).Parse} {
		if v, err := parse(text); err == nil {
			return cel.DoubleType, types.Double(v)
		}
	}
	if v, err := strconv.ParseInt(text, 10, 64); err == nil {
		return cel.IntType, types.Int(v)
	}
	if v, err := strconv.ParseFloat(text, 64); err == nil && finite(v) == nil {
		return cel.DoubleType, types.Double(v)
	}
	if v, err := document.Duration(0, 1000*time.Hour).Parse(text); err == nil {
		return cel.DurationType, types.Duration{Duration: v}
	}
	return cel.StringType, types.String(text)
}

// marked replaces the dollars of constants' names, but for those in texts.
func marked(text string) string {
	out := []byte(text)
	var quote byte
	for i := 0; i < len(out); i++ {
		switch c := out[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && c == '$' && i+1 < len(out) && out[i+1] >= 'a' && out[i+1] <= 'z':
			out[i] = mark[0]
		}
	}
	return string(out)
}

// shown is a name as it is written.
func shown(name string) string {
	if rest, ok := strings.CutPrefix(name, mark); ok {
		return "$" + rest
	}
	return name
}

// compile makes a program of an expression that is true or false.
func (l *language) compile(text string) (cel.Program, error) {
	parsed, issues := l.env.Parse(marked(text))
	if issues.Err() != nil {
		return nil, expressionError(text, issues)
	}
	if errs := l.unknown(parsed.NativeRep().Expr()); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	checked, issues := l.env.Check(parsed)
	if issues.Err() != nil {
		return nil, expressionError(text, issues)
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("%q is %s, but it must be true or false: compare it with something", text, typeName(checked.OutputType().String()))
	}
	p, err := l.env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	return p, nil
}

// unknown reports names that the language does not have, each with the nearest that it has.
func (l *language) unknown(e ast.Expr) (errs []error) {
	if path, ok := dotted(e); ok {
		known := make([]string, len(l.names))
		for i, n := range l.names {
			known[i] = shown(n.name)
		}
		if path = shown(path); slices.Contains(known, path) {
			return nil
		}
		if near := document.Nearest(path, known); near != "" {
			return []error{document.Wrong(near, "%s is not known here", path)}
		}
		return []error{fmt.Errorf("%s is not known here; known are %s; a text needs quotes", path, strings.Join(known, ", "))}
	}
	switch e.Kind() {
	case ast.SelectKind:
		errs = l.unknown(e.AsSelect().Operand())
	case ast.CallKind:
		c := e.AsCall()
		if c.IsMemberFunction() {
			errs = l.unknown(c.Target())
		}
		for _, a := range c.Args() {
			errs = append(errs, l.unknown(a)...)
		}
	case ast.ListKind:
		for _, x := range e.AsList().Elements() {
			errs = append(errs, l.unknown(x)...)
		}
	}
	return errs
}

// dotted is the name that an expression is, such as evidence.reduction.
func dotted(e ast.Expr) (string, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent(), true
	case ast.SelectKind:
		s := e.AsSelect()
		of, ok := dotted(s.Operand())
		return of + "." + s.FieldName(), ok
	}
	return "", false
}

// expressionError tells what CEL says about an expression in our words.
func expressionError(text string, issues *cel.Issues) error {
	var says []string
	for _, e := range issues.Errors() {
		says = append(says, fmt.Sprintf("character %d: %s", max(e.Location.Column(), 0)+1, plain(e.Message)))
	}
	return fmt.Errorf("%q: %s", text, strings.Join(says, "; "))
}

var (
	overload = regexp.MustCompile(`^found no matching overload for '([^']*)' applied to '([^']*)'$`)
	unknownF = regexp.MustCompile(`^undeclared reference to '([^']*)' \(in container ''\)$`)
)

// plain says it without the words of CEL's inside.
func plain(message string) string {
	if m := overload.FindStringSubmatch(message); m != nil {
		of := strings.Split(strings.NewReplacer("(", "", ")", "", ".", " ").Replace(m[2]), ", ")
		for i, t := range of {
			of[i] = typeName(t)
		}
		return fmt.Sprintf("%s does not go with %s", strings.Trim(m[1], "_@"), strings.Join(of, " and "))
	}
	if m := unknownF.FindStringSubmatch(message); m != nil {
		if near := document.Nearest(m[1], functions); near != "" {
			return fmt.Sprintf("%s is not a function here; did you mean %q?", m[1], near)
		}
		return m[1] + " is not a function here"
	}
	says, _, _ := strings.Cut(strings.TrimPrefix(message, "Syntax error: "), " expecting ")
	return strings.NewReplacer("'<EOF>'", "the end", "mismatched input", "unexpected", "extraneous input", "unexpected").Replace(says)
}

// typeName is a type in the words of the documentation.
func typeName(t string) string {
	switch strings.TrimSpace(t) {
	case "int", "double", "uint":
		return "a number"
	case "string":
		return "a text"
	case "bool":
		return "true or false"
	case "google.protobuf.Duration", "duration", "google protobuf Duration":
		return "a duration"
	}
	if strings.HasPrefix(t, "list") {
		return "a list"
	}
	return t
}

// predicate is an expression that was compiled.
type predicate struct {
	text string
	prog cel.Program
}

func (l *language) predicate(text string) (*predicate, error) {
	prog, err := l.compile(text)
	if err != nil {
		return nil, err
	}
	return &predicate{text, prog}, nil
}

// eval reports whether the expression holds. What depends on a variable that is not known is not known.
func (p *predicate) eval(vars variables) (holds, known bool, err error) {
	out, _, err := p.prog.Eval(vars)
	if err != nil {
		return false, false, fmt.Errorf("%q: %w", p.text, err)
	}
	b, known := out.(types.Bool)
	return bool(b), known, nil
}

// variables resolve names by a function.
type variables func(name string) (any, bool)

func (v variables) ResolveName(name string) (any, bool) { return v(name) }

func (variables) Parent() cel.Activation { return nil }

func notKnown(name string) any { return types.NewUnknown(0, types.NewAttributeTrail(name)) }

// finite reports whether every value is a number that can be compared.
func finite(values ...float64) error {
	for _, x := range values {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("a measurement is %v", x)
		}
	}
	return nil
}
