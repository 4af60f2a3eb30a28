package console

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultPage = 100
	maxPage     = 1000
)

// position is where a page ended: what comes after is older, or as old with a smaller identifier. It stays right while
// newer things are added in front.
type position struct {
	time time.Time
	id   string
}

func comparePositions(a, b position) int { // newest first
	return cmp.Or(b.time.Compare(a.time), cmp.Compare(b.id, a.id))
}

func (p position) token() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.time.UnixNano(), 36) + "." + p.id))
}

func parseToken(s string) (position, bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return position{}, false
	}
	at, id, ok := strings.Cut(string(b), ".")
	nanos, err := strconv.ParseInt(at, 36, 64)
	if !ok || err != nil {
		return position{}, false
	}
	return position{time.Unix(0, nanos), id}, true
}

// page sorts items newest first and returns those of one page, and the token of the next.
func page[T any](items []T, at func(T) position, size int32, token string) (out []T, next string, err error) {
	var c check
	if size < 0 || size > maxPage {
		c.add("page_size", "%d is outside 1 to %d: 0 means %d", size, maxPage, defaultPage)
	}
	after, ok := position{}, true
	if token != "" {
		if after, ok = parseToken(token); !ok {
			c.add("page_token", "was not returned by this method: send the next_page_token of the answer before as it is")
		}
	}
	if err := c.err(); err != nil {
		return nil, "", err
	}
	items = slices.Clone(items)
	slices.SortFunc(items, func(a, b T) int { return comparePositions(at(a), at(b)) })
	if token != "" {
		items = slices.DeleteFunc(items, func(x T) bool { return comparePositions(at(x), after) <= 0 })
	}
	n := int(cmp.Or(size, defaultPage))
	if len(items) <= n {
		return items, "", nil
	}
	return items[:n], at(items[n-1]).token(), nil
}
