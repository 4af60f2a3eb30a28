package policy

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestCookbook reads every policy of docs/cookbook.md and runs the tests under it.
func TestCookbook(t *testing.T) {
	b, err := os.ReadFile("../docs/cookbook.md")
	if err != nil {
		t.Fatal(err)
	}
	recipes := strings.Split(string(b), "\n## ")[1:]
	if len(recipes) != 10 {
		t.Errorf("%d recipes, the text says ten", len(recipes))
	}
	for i, recipe := range recipes {
		title, text, _ := strings.Cut(recipe, "\n")
		if !strings.HasPrefix(title, fmt.Sprintf("%d. ", i+1)) {
			t.Errorf("%q is recipe %d", title, i+1)
		}
		t.Run(title, func(t *testing.T) {
			block := func(of string) string {
				if strings.Count(text, "```"+of+"\n") != 1 {
					t.Fatalf("%d blocks of %s", strings.Count(text, "```"+of+"\n"), of)
				}
				_, rest, _ := strings.Cut(text, "```"+of+"\n")
				inner, _, _ := strings.Cut(rest, "```\n")
				return inner
			}
			p, err := Parse("policy.yaml", []byte(block("yaml")))
			if err != nil {
				t.Fatal(err)
			}
			s, err := ParseSuite("policy_test.yaml", []byte(block("tests")))
			if err != nil {
				t.Fatal(err)
			}
			results := s.Run(p)
			if len(results) < 4 {
				t.Errorf("only %d tests", len(results))
			}
			for _, r := range results {
				for _, f := range r.Failures {
					t.Errorf("%s: %s: %s", r.Place, r.Name, f)
				}
			}
		})
	}
}

// TestSuiteOfTheDefaultPolicy runs the tests of the policy we ship.
func TestSuiteOfTheDefaultPolicy(t *testing.T) {
	text, err := os.ReadFile("default_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSuite("default_test.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.Run(Default()) {
		for _, f := range r.Failures {
			t.Errorf("%s: %s: %s", r.Place, r.Name, f)
		}
	}
}
