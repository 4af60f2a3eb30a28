package document

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// JSONSchema is root as a JSON Schema (draft 2020-12) for editors: which keys there are, what they mean and how values are
// written. It accepts all that is read, and cannot know all that is refused. With the name of a key at the top, constants, it
// lets their names stand for values.
func JSONSchema(title string, root Value, constants string) ([]byte, error) {
	s := root.jsonSchema()
	if constants != "" {
		allow(s, constants, true)
		s["$defs"] = map[string]any{"constant": map[string]any{
			"type": "string", "pattern": `^\$[a-z][a-z0-9_]*$`, "description": "The name of a constant.",
		}}
	}
	s["$schema"], s["title"] = "https://json-schema.org/draft/2020-12/schema", title
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write JSON Schema: %w", err)
	}
	return append(b, '\n'), nil
}

// allow lets the name of a constant stand in the place of each value, but for those below the key that defines them.
func allow(s map[string]any, constants string, top bool) map[string]any {
	if p, ok := s["properties"].(map[string]any); ok {
		for k, v := range p {
			if !top || k != constants {
				p[k] = allow(v.(map[string]any), constants, false)
			}
		}
		return s
	}
	if named, ok := s["additionalProperties"].(map[string]any); ok {
		s["additionalProperties"] = allow(named, constants, false)
		return s
	}
	if of, ok := s["anyOf"].([]any); ok && slices.ContainsFunc(of, isArray) { // one or a list of them
		for i, v := range of {
			of[i] = allow(v.(map[string]any), constants, false)
		}
		return s
	}
	constant := map[string]any{"$ref": "#/$defs/constant"}
	if items, ok := s["items"].(map[string]any); ok {
		s["items"] = allow(items, constants, false)
	}
	out := map[string]any{}
	if d, ok := s["description"]; ok {
		out["description"] = d
		delete(s, "description")
	}
	out["anyOf"] = []any{s, constant}
	return out
}

func isArray(v any) bool { return v.(map[string]any)["type"] == "array" }

func (s section) jsonSchema() map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, f := range s.fields {
		v := f.Value.jsonSchema()
		if says := f.Help; says != "" {
			if f.Danger != "" {
				says += " " + f.Danger
			}
			v["description"] = says
		}
		properties[f.Key] = v
		if f.Each {
			required = append(required, f.Key)
		}
	}
	out := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

func (l list[T]) jsonSchema() map[string]any {
	t := l.fresh()
	item := l.item(&t).jsonSchema()
	many := map[string]any{"type": "array", "items": item}
	if l.oneOrAll {
		return map[string]any{"anyOf": []any{maps.Clone(item), many}}
	}
	return many
}

func (m named[T]) jsonSchema() map[string]any {
	var t T
	return map[string]any{"type": "object", "additionalProperties": m.item(&t).jsonSchema()}
}

func (constants) jsonSchema() map[string]any {
	value := map[string]any{"type": []string{"string", "number", "boolean"}}
	return map[string]any{
		"type": "object", "propertyNames": map[string]any{"pattern": "^[a-z][a-z0-9_]*$"},
		"additionalProperties": map[string]any{"anyOf": []any{value, map[string]any{"type": "array", "items": value}}},
	}
}
