package main

import (
	"slices"
)

// card is the score of all scenarios.
type card struct {
	Overall   overall `json:"overall"`
	Scenarios []score `json:"scenarios"`
}

// overall is the figures of all attacks that are not small.
type overall struct {
	Scenarios int `json:"scenarios"`
	Packets   int `json:"packets"`
	Attacks   int `json:"attacks"`
	// Recall is the share of the attacks that were found, Precision the share of finds that are attacks; further incidents
	// of an attack that was found count for neither.
	Recall    float64 `json:"recall"`
	Precision float64 `json:"precision"`
	False     int     `json:"false_incidents"`
	// BenignFalse is how many of those are in scenarios without an attack.
	BenignFalse int `json:"benign_incidents"`
	More        int `json:"more_incidents"`
	// VectorAccuracy is the share of found attacks whose vectors, and no others, are named.
	VectorAccuracy float64 `json:"vector_accuracy"`
	DelayMS50      float64 `json:"delay_ms_p50"`
	DelayMS99      float64 `json:"delay_ms_p99"`
	// Covered is the share of the found separable attacks whose signature matches at least 95 % of their packets;
	// MedianCollateral is the median of those.
	Covered          float64 `json:"covered"`
	MedianCollateral float64 `json:"median_collateral"`
}

// enough is the coverage from which on a signature stops an attack.
const enough = 0.95

// sum makes the card of scores.
func sum(scores []score) card {
	c := card{Scenarios: scores}
	o := &c.Overall
	var hits, finds, accurate, separable int
	var delays, collateral []float64
	for _, s := range scores {
		o.Scenarios++
		o.Packets += s.Packets
		o.False += len(s.False)
		if len(s.Attacks) == 0 {
			o.BenignFalse += len(s.False)
		}
		for _, a := range s.Attacks {
			o.More += a.More
			finds += one(a.Detected)
			if a.Small {
				continue
			}
			o.Attacks++
			if !a.Detected {
				continue
			}
			hits++
			accurate += one(a.Accurate)
			delays = append(delays, a.DelayMS)
			if !a.Separable || a.Judged == 0 {
				continue
			}
			separable++
			if a.Coverage >= enough {
				collateral = append(collateral, a.Collateral)
			}
		}
	}
	o.Recall, o.VectorAccuracy, o.Covered = orAll(hits, o.Attacks), orAll(accurate, hits), orAll(len(collateral), separable)
	o.Precision = orAll(finds, finds+o.False)
	o.DelayMS50, o.DelayMS99 = quantile(delays, 0.5), quantile(delays, 0.99)
	o.MedianCollateral = quantile(collateral, 0.5)
	return c
}

// orAll is a share, of nothing 1.
func orAll(part, whole int) float64 {
	if whole == 0 {
		return 1
	}
	return share(part, whole)
}

// quantile is the value below or at which that share of the values lies; 0 of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return v[min(len(v)-1, int(q*float64(len(v))))]
}
