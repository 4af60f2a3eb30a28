package console

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// The longest texts taken from a request, in characters. Texts are stored, logged and shown on terminals.
const (
	maxReason    = 500
	maxRequester = 64
	maxID        = 128
)

// check collects everything that is wrong with a request.
type check struct{ fields []FieldError }

func (c *check) add(field, format string, args ...any) {
	c.fields = append(c.fields, FieldError{field, fmt.Sprintf(format, args...)})
}

func (c *check) err() error {
	if len(c.fields) == 0 {
		return nil
	}
	return ErrInvalid{c.fields}
}

// text checks a text for its length and for characters that would garble a log or a terminal.
func (c *check) text(field, s string, most int) string {
	switch {
	case utf8.RuneCountInString(s) > most:
		c.add(field, "has %d characters: at most %d are taken", utf8.RuneCountInString(s), most)
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		c.add(field, "%q has characters that cannot be printed: write it in one line of plain text", s)
	}
	return s
}

func (c *check) reason(s string) string {
	s = strings.TrimSpace(s)
	if s == "" {
		c.add("reason", "must not be empty: say why, for the colleague who reads this later")
	}
	return c.text("reason", s, maxReason)
}

// requester returns who asks: what the certificate says, else what the request says with the way it came by, so that
// nobody can pass for a certificate's holder or for automation.
func (c *check) requester(ctx context.Context, said string) string {
	caller := rpc.CallerFrom(ctx)
	if !caller.IsLocal() {
		if caller.Name == "" || caller.Name == mitigation.Automation || caller.Name == mitigation.Breaker {
			c.add("requester", "the certificate's common name is %q: it must be the name of a person", caller.Name)
		}
		return caller.Name
	}
	said = c.text("requester", strings.TrimSpace(said), maxRequester)
	switch {
	case said != "":
		return said + " (" + caller.Local + ")"
	case strings.HasPrefix(caller.Local, "unix uid "):
		return caller.Local
	}
	c.add("requester", "must not be empty where no client certificate says who asks")
	return ""
}

func (c *check) prefix(field, s string) netip.Prefix {
	p, err := route.ParsePrefix(s)
	if err != nil {
		c.add(field, "%v", err)
	}
	return p
}

// duration checks a duration that must be there; least is the shortest taken.
func (c *check) duration(field string, d *durationpb.Duration, least time.Duration) time.Duration {
	if d == nil {
		c.add(field, "must be set, for example 10m")
		return 0
	}
	if err := d.CheckValid(); err != nil {
		c.add(field, "%v", err)
		return 0
	}
	// AsDuration holds at the largest value, which is far beyond any deadline the system takes.
	v := d.AsDuration()
	if v < least {
		c.add(field, "%v is below %v", v, least)
	}
	return v
}

func (c *check) id(field, s string) string {
	return c.text(field, s, maxID)
}
