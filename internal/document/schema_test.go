package document_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/amooglesoft/trafficmonitor/policy"
)

// schema is a JSON Schema of the keywords we write. An unknown keyword fails, so that none is passed over.
type schema map[string]any

func (s schema) check(root schema, path string, v any) error {
	if at, ok := v.(time.Time); ok { // editors read YAML 1.2, which has no times
		v = at.Format(time.RFC3339)
	}
	for key, arg := range s {
		var err error
		switch key {
		case "$schema", "title", "description", "$defs":
		case "$ref":
			err = schema(root["$defs"].(map[string]any)[strings.TrimPrefix(arg.(string), "#/$defs/")].(map[string]any)).check(root, path, v)
		case "type":
			err = hasType(arg, v)
		case "properties", "additionalProperties":
			if m, ok := v.(map[string]any); ok {
				err = s.properties(root, path, m)
			}
		case "propertyNames":
			if m, ok := v.(map[string]any); ok {
				for name := range m {
					if e := schema(arg.(map[string]any)).check(root, path+"/"+name, name); e != nil {
						err = e
					}
				}
			}
		case "required":
			for _, name := range arg.([]any) {
				if m, ok := v.(map[string]any); ok && m[name.(string)] == nil {
					err = fmt.Errorf("%v is missing", name)
				}
			}
		case "items":
			list, _ := v.([]any)
			for i, item := range list {
				if e := schema(arg.(map[string]any)).check(root, fmt.Sprintf("%s/%d", path, i), item); e != nil {
					return e
				}
			}
		case "enum":
			if !slices.Contains(arg.([]any), v) {
				err = fmt.Errorf("%v is not one of %v", v, arg)
			}
		case "const":
			if fmt.Sprint(arg) != fmt.Sprint(v) {
				err = fmt.Errorf("%v is not %v", v, arg)
			}
		case "pattern":
			if text, ok := v.(string); ok && !regexp.MustCompile(arg.(string)).MatchString(text) {
				err = fmt.Errorf("%q does not match %s", text, arg)
			}
		case "minimum":
			if n, ok := v.(int); ok && float64(n) < arg.(float64) {
				err = fmt.Errorf("%v is below %v", v, arg)
			}
		case "maximum":
			if n, ok := v.(int); ok && float64(n) > arg.(float64) {
				err = fmt.Errorf("%v is above %v", v, arg)
			}
		case "anyOf":
			var why []string
			for _, of := range arg.([]any) {
				if e := schema(of.(map[string]any)).check(root, path, v); e != nil {
					why = append(why, e.Error())
				}
			}
			if len(why) == len(arg.([]any)) {
				err = fmt.Errorf("none of: %s", strings.Join(why, "; "))
			}
		default:
			err = fmt.Errorf("the keyword %s is not known", key)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (s schema) properties(root schema, path string, m map[string]any) error {
	known, _ := s["properties"].(map[string]any)
	for name, v := range m {
		of, ok := known[name].(map[string]any)
		if !ok {
			switch other := s["additionalProperties"].(type) {
			case bool:
				return fmt.Errorf("%s is no key", name)
			case map[string]any:
				of = other
			}
		}
		if err := schema(of).check(root, path+"/"+name, v); err != nil {
			return err
		}
	}
	return nil
}

func hasType(want, v any) error {
	is := map[reflect.Kind]string{reflect.String: "string", reflect.Int: "integer", reflect.Float64: "number", reflect.Bool: "boolean", reflect.Map: "object", reflect.Slice: "array"}[reflect.ValueOf(v).Kind()]
	allowed := []any{want}
	if list, ok := want.([]any); ok {
		allowed = list
	}
	if slices.Contains(allowed, any(is)) || is == "integer" && slices.Contains(allowed, any("number")) {
		return nil
	}
	return fmt.Errorf("%v is of type %s, not %v", v, is, want)
}

func policySchema(t *testing.T) schema {
	t.Helper()
	text, err := policy.JSONSchema()
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// What is read is valid by the schema.
func TestSchemaAcceptsPolicies(t *testing.T) {
	s := policySchema(t)
	var files []string
	for _, pattern := range []string{"../../policy/default.yaml", "../../policy/testdata/*.yaml", "../../policy/testdata/site/*0-*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		files = append(files, found...)
	}
	read := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := policy.Parse(file, text); err != nil && !strings.Contains(file, "site") {
			continue
		}
		read++
		var v any
		if err := yaml.Unmarshal(text, &v); err != nil {
			t.Fatal(err)
		}
		if err := s.check(s, "", v); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, doc := range []string{"../../docs/policy.md", "../../docs/cookbook.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
			block, _, _ = strings.Cut(block, "```\n")
			read++
			var v any
			if err := yaml.Unmarshal([]byte(block), &v); err != nil {
				t.Fatal(err)
			}
			if err := s.check(s, "", v); err != nil {
				t.Errorf("%s: %v\n%s", doc, err, block)
			}
		}
	}
	if read < 15 {
		t.Errorf("only %d policies", read)
	}
}

// An editor marks the usual mistakes.
func TestSchemaRefuses(t *testing.T) {
	s := policySchema(t)
	for _, text := range []string{
		"{}",
		"version: 2",
		"version: 1\nthreshold: []",
		"version: 1\nthresholds: {vectors: syn}",
		"version: 1\nthresholds: [{vectors: sin, pps: 1 kpps}]",
		"version: 1\nthresholds: [{vectors: [syn, sin], pps: 1 kpps}]",
		"version: 1\nthresholds: [{vectors: syn, pps: 1000}]",
		"version: 1\nthresholds: [{vectors: syn, pps: 1 kbps}]",
		"version: 1\nthresholds: [{vectors: syn, windows: 0}]",
		"version: 1\nresponses: [{vectors: syn, action: drop}]",
		"version: 1\nresponses: [{vectors: syn, action: rate-limit}]",
		"version: 1\nresponses: [{vectors: syn, ladder: [{action: discard, approval: 3}]}]",
		"version: 1\nresponses: [{vectors: syn, ladder: [{action: discard, max_collateral: 0.5}]}]",
		"version: 1\ndefaults: {ttl: 10}",
		"version: 1\ndefaults: {ttl: $Ttl}",
		"version: 1\nconstants: {Big: 1}",
		"version: 1\nconstants: {a: {b: c}}",
		"version: 1\ngroups: {a: {prefix: 192.0.2.1}}",
	} {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if err := s.check(s, "", v); err == nil {
			t.Errorf("accepted:\n%s", text)
		}
		if _, err := policy.Parse("x", []byte(text)); err == nil {
			t.Errorf("the reader accepts:\n%s", text)
		}
	}
}
