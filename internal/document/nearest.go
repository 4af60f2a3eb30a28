package document

import (
	"slices"
	"strings"
)

// Nearest returns the known word that s was probably meant to be: a typing error away, or different only in case or in
// how its parts are joined. Empty when none is near.
func Nearest(s string, known []string) string {
	if s == "" || len(s) > 64 {
		return ""
	}
	if begun := slices.DeleteFunc(slices.Clone(known), func(k string) bool { return !strings.HasPrefix(k, s) }); len(s) > 2 && len(begun) == 1 {
		return begun[0]
	}
	best, least := "", len(s)/3+1
	for _, k := range known {
		d := distance(fold(s), fold(k))
		if d < least || d == least && best == "" && d <= len(s)/3 {
			best, least = k, d
		}
	}
	return best
}

var folder = strings.NewReplacer("-", "", "_", "", " ", "")

func fold(s string) string { return folder.Replace(strings.ToLower(s)) }

// distance counts the insertions, deletions, replacements and swaps of neighbours that turn a into b.
func distance(a, b string) int {
	prev2 := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
