// Package config reads controller.yaml and sensor.yaml into domain types, says what is wrong with them, and writes the
// effective configuration back. It knows YAML and nothing of the packages it configures.
package config

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/document"
)

// TLS names the files of one identity, in PEM.
type TLS struct {
	CA   string // certificates that vouch for the other side
	Cert string // own certificate
	Key  string // its private key
}

// Enabled reports whether TLS is meant to be used.
func (t TLS) Enabled() bool { return t != TLS{} }

// Log says what is logged and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}

// LoadController reads the configuration of a controller. The error lists everything that is wrong with the file.
func LoadController(path string) (Controller, error) {
	text, err := document.ReadFile(path)
	if err != nil {
		return Controller{}, fmt.Errorf("configuration: %w", err)
	}
	return ParseController(path, text)
}

// ParseController reads the configuration of a controller from its text. Paths in it are relative to the folder of name.
func ParseController(name string, text []byte) (Controller, error) {
	c := DefaultController()
	report := document.Read(name, text, c.schema())
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return Controller{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	c.resolve(dir)
	c.check(report)
	if err := report.Err(); err != nil {
		return Controller{}, err
	}
	return c, nil
}

// LoadSensor reads the configuration of a sensor. The error lists everything that is wrong with the file.
func LoadSensor(path string) (Sensor, error) {
	text, err := document.ReadFile(path)
	if err != nil {
		return Sensor{}, fmt.Errorf("configuration: %w", err)
	}
	return ParseSensor(path, text)
}

// ParseSensor reads the configuration of a sensor from its text. Paths in it are relative to the folder of name.
func ParseSensor(name string, text []byte) (Sensor, error) {
	s := DefaultSensor()
	report := document.Read(name, text, s.schema())
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return Sensor{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	s.resolve(dir)
	s.check(report)
	if err := report.Err(); err != nil {
		return Sensor{}, err
	}
	return s, nil
}

// Dump writes the configuration in force, defaults included, as a file that reads back equal.
func (c Controller) Dump() ([]byte, error) { return document.Write(c.schema()) }

// Dump writes the configuration in force, defaults included, as a file that reads back equal.
func (s Sensor) Dump() ([]byte, error) { return document.Write(s.schema()) }

// Check reports what is wrong with a configuration that was not read from a file.
func (c Controller) Check() error {
	report := document.NewReport("controller configuration")
	c.check(report)
	return report.Err()
}

// Check reports what is wrong with a configuration that was not read from a file.
func (s Sensor) Check() error {
	report := document.NewReport("sensor configuration")
	s.check(report)
	return report.Err()
}

// DescribeController lists every key of controller.yaml with its type, default and meaning.
func DescribeController() []document.Key {
	c := DefaultController()
	c.Name = "the host's name"
	c.Speaker.Journal = "DATA_DIR/speaker.journal"
	return document.Keys(c.schema())
}

// DescribeSensor lists every key of sensor.yaml with its type, default and meaning.
func DescribeSensor() []document.Key {
	s := DefaultSensor()
	s.Name = "the host's name"
	return document.Keys(s.schema())
}

// absolute resolves paths against the folder of the file they were written in.
func absolute(dir string, paths ...*string) {
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// hostname is the default name of a daemon; empty where the host has none that can be used.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	if _, err := document.Word().Parse(name); err != nil {
		return ""
	}
	return name
}

// ReadSecret reads a TCP MD5 secret from a file of its own: one line, which only its owner and group may read.
func ReadSecret(path string) (string, error) { return readSecret(path, maxMD5, "TCP MD5 takes") }

// ReadPassphrase reads a passphrase, a password or a community from a file such as those of ReadSecret.
func ReadPassphrase(path string) (string, error) { return readSecret(path, 256, "a passphrase has") }

func readSecret(path string, most int, what string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("secret: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return "", fmt.Errorf("secret %s may be read or written by everyone (mode %04o): chmod 0640 or stricter", path, mode)
	}
	text, err := document.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("secret: %w", err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	switch {
	case secret == "":
		return "", fmt.Errorf("secret %s is empty: write the secret into its first line", path)
	case strings.ContainsAny(secret, "\r\n"):
		return "", fmt.Errorf("secret %s has more than one line: write nothing but the secret", path)
	case len(secret) > most:
		return "", fmt.Errorf("secret %s is %d octets long: %s at most %d", path, len(secret), what, most)
	}
	return secret, nil
}

// maxMD5 is the longest key Linux takes (TCP_MD5SIG_MAXKEYLEN).
const maxMD5 = 80

func pathCodec() document.Codec[string] {
	c := document.Text(1, 4096)
	c.Type = "path"
	return c
}

// placeholders are what looks like one; only two stand for something.
var placeholders = regexp.MustCompile(`\{[^{}/]*\}`)

// routerPath is a path in which {name} and {address} stand for a router's, so that a group can name a file for each.
func routerPath() document.Codec[string] {
	c := pathCodec()
	text := c.Parse
	c.Parse = func(s string) (string, error) {
		for _, x := range placeholders.FindAllString(s, -1) {
			if x != "{name}" && x != "{address}" {
				return "", fmt.Errorf("%q: nothing stands for %s: use {name} or {address} of the router", s, x)
			}
		}
		return text(s)
	}
	return c
}

func tlsFields(t *TLS) document.Value {
	path := document.OrEmpty(pathCodec())
	return document.Section(
		document.Field{Key: "ca", Value: document.Scalar(&t.CA, path), Help: "File with the certificates that vouch for the other side, PEM."},
		document.Field{Key: "cert", Value: document.Scalar(&t.Cert, path), Help: "File with our certificate, PEM."},
		document.Field{Key: "key", Value: document.Scalar(&t.Key, path), Help: "File with its private key, PEM.", Danger: "Only our user may read it."},
	)
}

func logFields(l *Log) document.Value {
	return document.Section(
		document.Field{Key: "level", Value: document.Scalar(&l.Level, document.OneOf("debug", "info", "warn", "error")), Help: "The least level that is logged."},
		document.Field{Key: "format", Value: document.Scalar(&l.Format, document.OneOf("text", "json")), Help: "How a line looks."},
	)
}

// checkTLS reports files named in part only.
func checkTLS(r *document.Report, at string, t TLS) {
	if !t.Enabled() {
		return
	}
	for _, f := range []struct{ key, path string }{{"ca", t.CA}, {"cert", t.Cert}, {"key", t.Key}} {
		if f.path == "" {
			r.Add(at+"."+f.key, "is missing: TLS needs ca, cert and key, or none of them")
		}
	}
}
