package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	bgplog "github.com/osrg/gobgp/v3/pkg/log"
)

// bgpLog gives GoBGP's log to ours, one level lower: the guard says in our words what an operator needs.
type bgpLog struct{ log *slog.Logger }

func (l *bgpLog) write(level slog.Level, msg string, fields bgplog.Fields) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	args := make([]any, 0, 2*len(fields))
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		args = append(args, k, fmt.Sprint(fields[k]))
	}
	l.log.Log(context.Background(), level, "gobgp: "+msg, args...)
}

func (l *bgpLog) Panic(msg string, f bgplog.Fields) {
	l.write(slog.LevelError, msg, f)
	panic("gobgp: " + msg)
}

func (l *bgpLog) Fatal(msg string, f bgplog.Fields) { l.Panic(msg, f) }
func (l *bgpLog) Error(msg string, f bgplog.Fields) { l.write(slog.LevelError, msg, f) }
func (l *bgpLog) Warn(msg string, f bgplog.Fields)  { l.write(slog.LevelInfo, msg, f) }
func (l *bgpLog) Info(msg string, f bgplog.Fields)  { l.write(slog.LevelDebug, msg, f) }
func (l *bgpLog) Debug(string, bgplog.Fields)       {}

func (l *bgpLog) SetLevel(bgplog.LogLevel) {}

// GetLevel keeps GoBGP from formatting its debug messages, one per UPDATE.
func (l *bgpLog) GetLevel() bgplog.LogLevel { return bgplog.InfoLevel }
