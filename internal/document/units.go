package document

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

type unit struct {
	word string
	n    float64
}

var (
	packets = []unit{{"Gpps", 1e9}, {"Mpps", 1e6}, {"kpps", 1e3}, {"pps", 1}}
	bits    = []unit{{"Tbps", 1e12}, {"Gbps", 1e9}, {"Mbps", 1e6}, {"kbps", 1e3}, {"bps", 1}}
)

// maxRate is above what any interface carries.
const maxRate = 1e15

// PPS is a rate of packets, such as "20 kpps".
func PPS() Codec[float64] { return rate(packets, "packet rate such as 20 kpps") }

// BPS is a rate of bits, such as "1.5 Gbps".
func BPS() Codec[float64] { return rate(bits, "bit rate such as 1.5 Gbps") }

func rate(units []unit, typ string) Codec[float64] {
	return Codec[float64]{
		Type:   typ,
		Parse:  func(s string) (float64, error) { return parseRate(s, units) },
		Format: func(v float64) string { return formatRate(v, units) },
		JSON:   map[string]any{"type": "string", "pattern": ratePattern(units)},
	}
}

// Pattern turns a pattern of JSON Schema, of a part of a value, into one of a whole value.
func Pattern(part string) map[string]any {
	return map[string]any{"type": "string", "pattern": "^(" + part + ")$"}
}

func ratePattern(units []unit) string {
	words := make([]string, len(units))
	for i, u := range units {
		words[i] = u.word
	}
	return `^[0-9]+(\.[0-9]+)? *(` + strings.Join(words, "|") + ")$"
}

// splitNumber separates a decimal number from the unit behind it.
func splitNumber(s string) (number, word string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
		i++
	}
	return s[:i], strings.TrimLeft(s[i:], " ")
}

func parseRate(s string, units []unit) (float64, error) {
	number, word := splitNumber(s)
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.HasPrefix(number, ".") || strings.HasSuffix(number, ".") {
		return 0, fmt.Errorf("%q is not a rate: write a number and a unit, such as 20 %s", cut(s), units[2].word)
	}
	for _, u := range units {
		if u.word != word {
			continue
		}
		switch v = math.Round(v * u.n); {
		case v < 1:
			return 0, fmt.Errorf("%q is less than 1 %s", s, units[len(units)-1].word)
		case v > maxRate:
			return 0, fmt.Errorf("%q is more than any interface carries", cut(s))
		}
		return v, nil
	}
	return 0, unitError(s, number, word, units)
}

// unitError says what is wrong with the unit of a rate.
func unitError(s, number, word string, units []unit) error {
	words := make([]string, len(units))
	for i, u := range units {
		words[i] = u.word
	}
	known := strings.Join(words, ", ")
	other, what := bits, "bits, but this counts packets"
	if units[len(units)-1].word == "bps" {
		other, what = packets, "packets, but this counts bits"
	}
	if word == "" {
		return fmt.Errorf("%q has no unit: use one of %s", cut(s), known)
	}
	if v, err := strconv.ParseFloat(number, 64); err == nil && len(word) <= 4 && strings.HasSuffix(word, "Bps") && what[0] == 'p' {
		return Wrong(strconv.FormatFloat(v*8, 'f', -1, 64)+" "+strings.Replace(word, "B", "b", 1), "%q counts octets, but this counts bits", s)
	}
	for _, u := range other {
		if strings.EqualFold(u.word, word) {
			return fmt.Errorf("%q counts %s: use one of %s", s, what, known)
		}
	}
	short := strings.NewReplacer("bit/s", "bps", "b/s", "bps", "bits", "bps", "bit", "bps", "p/s", "pps", "pkt/s", "pps").Replace(strings.ToLower(word))
	for _, u := range units {
		if strings.EqualFold(u.word, short) || len(u.word) == 4 && strings.EqualFold(u.word[:1], short) {
			return Wrong(number+" "+u.word, "%q has an unknown unit %q", s, word)
		}
	}
	return fmt.Errorf("%q has an unknown unit %q: use one of %s", cut(s), cut(word), known)
}

func formatRate(v float64, units []unit) string {
	for _, u := range units {
		if v < u.n {
			continue
		}
		number := strconv.FormatFloat(v/u.n, 'f', -1, 64)
		if x, err := strconv.ParseFloat(number, 64); err == nil && len(number) <= 8 && math.Round(x*u.n) == v {
			return number + " " + u.word
		}
	}
	return strconv.FormatFloat(v, 'f', -1, 64) + " " + units[len(units)-1].word
}

// Duration is a length of time in a range, such as 10m, 1h30m or 33ms.
func Duration(minimum, maximum time.Duration) Codec[time.Duration] {
	return Codec[time.Duration]{
		Type: fmt.Sprintf("duration, %s to %s", FormatDuration(minimum), FormatDuration(maximum)),
		Parse: func(s string) (time.Duration, error) {
			d, err := time.ParseDuration(s)
			if err != nil || strings.HasPrefix(s, "+") {
				return 0, durationError(s)
			}
			if d < minimum || d > maximum {
				return 0, fmt.Errorf("%s is not from %s to %s", FormatDuration(d), FormatDuration(minimum), FormatDuration(maximum))
			}
			return d, nil
		},
		Format: FormatDuration,
		JSON:   Pattern(`0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+`),
	}
}

func durationError(s string) error {
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return Wrong(s+"s", "%q has no unit", cut(s))
	}
	number, word := splitNumber(s)
	if days, err := strconv.Atoi(number); err == nil && days < 1000 && (word == "d" || word == "day" || word == "days") {
		return Wrong(fmt.Sprintf("%dh", 24*days), "%q counts in days, which are not always 24 hours", s)
	}
	for word0, u := range map[string]string{
		"sec": "s", "secs": "s", "second": "s", "seconds": "s", "min": "m", "mins": "m", "minute": "m", "minutes": "m",
		"hour": "h", "hours": "h", "msec": "ms", "s": "s", "m": "m", "h": "h", "ms": "ms",
	} {
		if number != "" && strings.EqualFold(word, word0) {
			return Wrong(number+u, "%q is not a duration", cut(s))
		}
	}
	return fmt.Errorf("%q is not a duration such as 10m, 1h30m or 33ms", cut(s))
}

// FormatDuration writes a duration without the zeros time.Duration adds: 10m, not 10m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Percent is a share written in percent, such as 70%, and held as a fraction, with at most four decimals.
func Percent(minimum, maximum float64) Codec[float64] {
	format := func(v float64) string {
		s := strconv.FormatFloat(v*100, 'f', 4, 64)
		return strings.TrimRight(strings.TrimRight(s, "0"), ".") + "%"
	}
	return Codec[float64]{
		Type: fmt.Sprintf("percentage, %s to %s", format(minimum), format(maximum)),
		Parse: func(s string) (float64, error) {
			number, word := splitNumber(s)
			v, err := strconv.ParseFloat(number, 64)
			_, decimals, _ := strings.Cut(number, ".")
			switch {
			case err != nil:
				return 0, fmt.Errorf("%q is not a percentage such as 70%%", cut(s))
			case word == "" && v > 0 && v <= 1:
				return 0, Wrong(format(v), "%q has no percent sign", cut(s))
			case word == "":
				return 0, Wrong(number+"%", "%q has no percent sign", cut(s))
			case word != "%" || len(decimals) > 4:
				return 0, fmt.Errorf("%q is not a percentage such as 70%% or 2.5%%", cut(s))
			case v/100 < minimum || v/100 > maximum:
				return 0, fmt.Errorf("%s is not from %s to %s", cut(s), format(minimum), format(maximum))
			}
			return v / 100, nil
		},
		Format: format,
		JSON:   Pattern(`[0-9]+(\.[0-9]{1,4})?%`),
	}
}

// sizes are the units of memory, powers of two only: a limit is compared with what the kernel counts in pages.
var sizes = []unit{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// Size is an amount of memory in a range, such as 64MiB, held in bytes.
func Size(minimum, maximum int64) Codec[int64] {
	format := func(v int64) string {
		for _, u := range sizes {
			if n := int64(u.n); v >= n && v%n == 0 {
				return strconv.FormatInt(v/n, 10) + u.word
			}
		}
		return strconv.FormatInt(v>>10, 10) + "KiB"
	}
	return Codec[int64]{
		Type: fmt.Sprintf("size, %s to %s", format(minimum), format(maximum)),
		Parse: func(s string) (int64, error) {
			number, word := splitNumber(s)
			n, err := strconv.ParseInt(number, 10, 32)
			if err != nil {
				return 0, fmt.Errorf("%q is not a size such as 64MiB", cut(s))
			}
			for _, u := range sizes {
				if u.word != word {
					if word != "" && strings.EqualFold(u.word[:1], word[:1]) {
						return 0, Wrong(number+u.word, "%q has an unknown unit %q", cut(s), cut(word))
					}
					continue
				}
				if v := n * int64(u.n); v >= minimum && v <= maximum {
					return v, nil
				}
				return 0, fmt.Errorf("%s is not from %s to %s", s, format(minimum), format(maximum))
			}
			return 0, fmt.Errorf("%q has no unit: write a size such as 64MiB", cut(s))
		},
		Format: format,
		JSON:   Pattern(`[0-9]+(GiB|MiB|KiB)`),
	}
}
