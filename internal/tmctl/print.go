package tmctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// marshaler has the fixed options of -o json: the field names of the .proto files, every field always there.
var marshaler = protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}

// protoJSON returns a message as JSON, on one line or indented. protojson varies its white space on purpose, so it is
// removed and put back.
func protoJSON(m proto.Message, indent string) ([]byte, error) {
	b, err := marshaler.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil || indent == "" {
		return out.Bytes(), err
	}
	b = bytes.Clone(out.Bytes())
	out.Reset()
	err = json.Indent(&out, b, "", indent)
	return out.Bytes(), err
}

// print shows a message as JSON, or as a table that show writes.
func (c *cli) print(m proto.Message, show func() error) error {
	if !c.json() {
		return show()
	}
	b, err := protoJSON(m, "  ")
	if err != nil {
		return failed("write JSON: %w", err)
	}
	return c.write(string(b) + "\n")
}

// printValue is print for what is no message of the API.
func (c *cli) printValue(v any, show func() error) error {
	if !c.json() {
		return show()
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return failed("write JSON: %w", err)
	}
	return c.write(string(b) + "\n")
}

func (c *cli) write(s string) error {
	if _, err := fmt.Fprint(c.Stdout, s); err != nil {
		return failed("write the output: %w", err)
	}
	return nil
}

// table collects rows and writes them aligned. The first row is the heading.
type table struct{ rows [][]string }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) String() string {
	var width []int
	for _, r := range t.rows {
		for i, cell := range r {
			r[i] = clean(cell)
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(r[i]))
		}
	}
	var b strings.Builder
	for _, r := range t.rows {
		var line strings.Builder
		for i, cell := range r {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// clean takes out what could garble a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// dash stands for nothing.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// duration writes a duration with at most two units: 26h becomes 1d2h, 90 s become 1m30s.
func duration(d time.Duration) string {
	if d < 0 {
		return "-" + duration(-d)
	}
	switch {
	case d == 0:
		return "0s"
	case d < time.Microsecond:
		return strconv.FormatInt(int64(d), 10) + "ns"
	case d < time.Millisecond:
		return trim(float64(d)/float64(time.Microsecond)) + "us"
	case d < time.Second:
		return trim(float64(d)/float64(time.Millisecond)) + "ms"
	}
	units := []struct {
		name string
		d    time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}
	for i, u := range units {
		if d < u.d {
			continue
		}
		s := strconv.FormatInt(int64(d/u.d), 10) + u.name
		if i+1 < len(units) {
			if rest := d % u.d / units[i+1].d; rest > 0 {
				s += strconv.FormatInt(int64(rest), 10) + units[i+1].name
			}
		}
		return s
	}
	return "0s"
}

// trim writes a number with three significant digits and no needless zeros.
func trim(v float64) string {
	digits := 0
	switch {
	case v < 10:
		digits = 2
	case v < 100:
		digits = 1
	}
	s := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// scaled writes a value with a decimal prefix: 104000 pps become 104kpps.
func scaled(v float64, unit string) string {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	for _, s := range []struct {
		prefix string
		n      float64
	}{{"T", 1e12}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3}} {
		if v >= s.n*0.9995 {
			return trim(v/s.n) + s.prefix + unit
		}
	}
	return trim(v) + unit
}

// rates writes both rates of a vector; what is zero is left out.
func rates(pps, bps float64) string {
	var parts []string
	for _, s := range []string{scaled(pps, "pps"), scaled(bps, "bps")} {
		if s != "-" {
			parts = append(parts, s)
		}
	}
	return dash(strings.Join(parts, " "))
}

// at writes a point in time, with the date only when it is not of today.
func (c *cli) at(ts *timestamppb.Timestamp, layout string) string {
	if ts == nil {
		return "-"
	}
	zone := c.Location
	if c.utc {
		zone = time.UTC
	}
	t, now := ts.AsTime().In(zone), c.Now().In(zone)
	if t.Format(time.DateOnly) != now.Format(time.DateOnly) {
		layout = time.DateOnly + " " + layout
	}
	return t.Format(layout)
}

// round takes away what nobody wants to read.
func round(d time.Duration) time.Duration {
	if d.Abs() < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second)
}

// ago writes how long a time is past, and until how long it is ahead.
func (c *cli) ago(ts *timestamppb.Timestamp) string {
	if ts == nil {
		return "-"
	}
	return duration(max(0, round(c.Now().Sub(ts.AsTime()))))
}

func (c *cli) until(ts *timestamppb.Timestamp) string {
	if ts == nil {
		return "-"
	}
	if d := round(ts.AsTime().Sub(c.Now())); d > 0 {
		return "in " + duration(d)
	}
	return c.past(ts)
}

func (c *cli) past(ts *timestamppb.Timestamp) string {
	if d := c.ago(ts); d != "0s" {
		return d + " ago"
	}
	return "now"
}
