package store

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapToSlog returns a logger for the embedded etcd whose warnings and errors end in log, at their level.
func zapToSlog(log *slog.Logger) *zap.Logger {
	return zap.New(&zapCore{log: log.With("source", "etcd"), min: zapcore.WarnLevel, level: func(l zapcore.Level) slog.Level {
		if l >= zapcore.ErrorLevel {
			return slog.LevelError
		}
		return slog.LevelWarn
	}})
}

// zapToDebug returns a logger for the client of a shared etcd. It speaks at every retry, and what matters of that the
// store says itself, once: so all of it goes to debug.
func zapToDebug(log *slog.Logger) *zap.Logger {
	return zap.New(&zapCore{
		log: log.With("source", "etcd-client"), min: zapcore.WarnLevel,
		level: func(zapcore.Level) slog.Level { return slog.LevelDebug },
	})
}

// zapCore writes etcd's log lines to an slog.Logger.
type zapCore struct {
	log    *slog.Logger
	min    zapcore.Level
	level  func(zapcore.Level) slog.Level
	fields []zapcore.Field
}

// Warnings of etcd about choices that are right for an embedded single member.
var harmless = []string{
	"Running http and grpc server on single port. This is not recommended for production.",
	"simple token is not cryptographically signed",
	// On a fresh directory, before the first write to disk; it concerns downgrades of etcd and is retried.
	"Failed to detect schema version",
	"failed to update storage version",
}

func (c *zapCore) Enabled(l zapcore.Level) bool { return l >= c.min }

func (c *zapCore) With(f []zapcore.Field) zapcore.Core {
	n := *c
	n.fields = append(slices.Clip(c.fields), f...)
	return &n
}

func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !slices.Contains(harmless, e.Message) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *zapCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, x := range append(slices.Clip(c.fields), f...) {
		x.AddTo(enc)
	}
	r := slog.NewRecord(time.Now(), c.level(e.Level), e.Message, 0)
	keys := make([]string, 0, len(enc.Fields))
	for k := range enc.Fields {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		r.AddAttrs(slog.Any(k, enc.Fields[k]))
	}
	if !c.log.Enabled(context.Background(), r.Level) {
		return nil
	}
	return c.log.Handler().Handle(context.Background(), r)
}

func (c *zapCore) Sync() error { return nil }
