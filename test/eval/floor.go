package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
)

// floor is what must not worsen.
type floor struct {
	Recall           float64 `json:"recall"`
	Precision        float64 `json:"precision"`
	VectorAccuracy   float64 `json:"vector_accuracy"`
	Covered          float64 `json:"covered"`
	MedianCollateral float64 `json:"median_collateral"`
	BenignFalse      int     `json:"benign_incidents"`
	// Detected says of every scenario with attacks whether all of them were found, those that are too small left out.
	Detected map[string]bool `json:"detected"`
}

func (c card) floor() floor {
	o := c.Overall
	f := floor{o.Recall, o.Precision, o.VectorAccuracy, o.Covered, o.MedianCollateral, o.BenignFalse, map[string]bool{}}
	for _, s := range c.Scenarios {
		for _, a := range s.Attacks {
			if a.Small {
				continue
			}
			before, known := f.Detected[s.Scenario]
			f.Detected[s.Scenario] = a.Detected && (before || !known)
		}
	}
	return f
}

func readFloor(path string) (f floor, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return f, fmt.Errorf("read the floor: %w (-update writes one)", err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("read the floor %s: %w", path, err)
	}
	return f, nil
}

// worse says what of the card is worse than the floor. The figures of all are compared only when all were run.
func (f floor) worse(c card, all bool) (out []string) {
	now := c.floor()
	for _, name := range slices.Sorted(maps.Keys(f.Detected)) {
		if found, ran := now.Detected[name]; f.Detected[name] && ran && !found {
			out = append(out, fmt.Sprintf("%s is no longer found", name))
		} else if all && !ran {
			out = append(out, fmt.Sprintf("%s is gone: -update if that is meant", name))
		}
	}
	if !all {
		return out
	}
	const rounding = 1e-9
	least := func(what string, now, floor float64) {
		if now < floor-rounding {
			out = append(out, fmt.Sprintf("%s is %.4f, was %.4f", what, now, floor))
		}
	}
	least("recall", now.Recall, f.Recall)
	least("precision", now.Precision, f.Precision)
	least("vector accuracy", now.VectorAccuracy, f.VectorAccuracy)
	least("the share of covered attacks", now.Covered, f.Covered)
	if now.MedianCollateral > f.MedianCollateral+rounding {
		out = append(out, fmt.Sprintf("median collateral is %.4f, was %.4f", now.MedianCollateral, f.MedianCollateral))
	}
	if now.BenignFalse > f.BenignFalse {
		out = append(out, fmt.Sprintf("incidents in benign scenarios are %d, were %d", now.BenignFalse, f.BenignFalse))
	}
	return out
}
