// Package daemon is what the commands of our daemons have in common: their flags and exit codes.
package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// Exit codes. Our units do not start a daemon again that ended with ExitUsage: EX_CONFIG of sysexits.h, and not 2, with which the Go
// runtime ends after a panic or when the watchdog aborts it.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 78 // wrong flags, or a configuration that cannot work
)

// Program is one daemon.
type Program struct {
	Name, Version string
	Usage         string // how it is called, a line each
	Config        string // path of the configuration when none is given
}

// Flags are what a daemon was told on its command line.
type Flags struct {
	Config string
	Check  bool // check the configuration and exit
	Dump   bool // print the configuration in force and exit
}

// Parse reads the command line. When done is true nothing else is to be done but to exit with code.
func (p Program) Parse(args []string, stdout, stderr io.Writer) (f Flags, code int, done bool) {
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, p.Usage)
		fs.PrintDefaults()
	}
	fs.StringVar(&f.Config, "config", p.Config, "configuration `file`")
	fs.BoolVar(&f.Check, "check", false, "check the configuration, change nothing, and exit")
	fs.BoolVar(&f.Dump, "dump", false, "print the configuration in force, defaults included, and exit")
	show := fs.Bool("version", false, "print the version and exit")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return f, ExitOK, true
	case err != nil:
		return f, ExitUsage, true
	case fs.NArg() > 0:
		fmt.Fprintf(stderr, "%s: %q is not understood\n%s", p.Name, fs.Arg(0), p.Usage)
		return f, ExitUsage, true
	case *show:
		fmt.Fprintln(stdout, p.Version)
		return f, ExitOK, true
	}
	return f, ExitOK, false
}

// Dumper is a configuration that can be printed.
type Dumper interface{ Dump() ([]byte, error) }

// Print prints the configuration in force and returns the exit code.
func Print(c Dumper, stdout, stderr io.Writer) int {
	text, err := c.Dump()
	if err == nil {
		_, err = stdout.Write(text)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return ExitFailed
	}
	return ExitOK
}
