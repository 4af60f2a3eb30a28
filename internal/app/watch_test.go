package app

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchWaitsUntilNobodyWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// What is seen at each look, from the first second on; and after which looks it must be told.
		seen := []string{"a", "a", "b", "c", "c", "c", "", "", "a", "b", "a", "c", "c", "d", "d"}
		told := map[int]bool{4: true, 7: true, 12: true, 14: true}
		var mu sync.Mutex
		look, changes := -1, map[int]bool{} // guarded by mu
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- watch(ctx, time.Second, "a", func() string {
				mu.Lock()
				defer mu.Unlock()
				look = min(look+1, len(seen)-1)
				return seen[look]
			}, func() {
				mu.Lock()
				defer mu.Unlock()
				changes[look] = true
			})
		}()
		for i := range seen {
			time.Sleep(time.Second)
			synctest.Wait()
			mu.Lock()
			if changes[i] != told[i] {
				t.Errorf("look %d: told %v, want %v", i, changes[i], told[i])
			}
			mu.Unlock()
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]string{}
	look := func(what string) string {
		print := fingerprint(dir, "")
		if of, ok := seen[print]; ok && of != what {
			t.Errorf("%s looks like %s", what, of)
		}
		seen[print] = what
		return print
	}
	look("an empty directory")
	put("a.yaml", "x")
	one := look("one file")
	put("a_test.yaml", "tests")
	put("notes.txt", "notes")
	if fingerprint(dir) != one {
		t.Error("what is no policy counts")
	}
	put("b.yaml", "")
	look("two files")
	put("a.yaml", "y")
	look("another text")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	look("nothing")
}
