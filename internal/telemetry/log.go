// Package telemetry is what every daemon shows of itself: logs, metrics, health and, on demand, profiles.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
)

// ParseLevel reads debug, info, warn or error; empty is info.
func ParseLevel(level string) (slog.Level, error) {
	switch level {
	case "debug":
		return slog.LevelDebug, nil
	case "info", "":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q is not known: use debug, info, warn or error", level)
}

// NewLogger returns a logger that writes to w. Level is debug, info, warn or error; format is text or json.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	l, err := ParseLevel(level)
	if err != nil {
		return nil, err
	}
	return NewLevelLogger(w, l, format)
}

// NewLevelLogger is NewLogger with a level that may change while it logs, such as a [slog.LevelVar].
func NewLevelLogger(w io.Writer, level slog.Leveler, format string) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case "text", "":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q is not known: use text or json", format)
}
