package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func fill(body string, made *atomic.Int32) func(string) error {
	return func(dir string) error {
		made.Add(1)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "file"), []byte(body), 0o644)
	}
}

func image(t *testing.T, s *Store, key, body string, made *atomic.Int32) string {
	t.Helper()
	dir, err := s.Image(t.Context(), key, fill(body, made))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil || string(got) != body {
		t.Errorf("%s holds %q: %v", key, got, err)
	}
	return dir
}

// Many builds at once extract an image once.
func TestImagesAreExtractedOnce(t *testing.T) {
	dir := t.TempDir()
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := open(t, dir, Options{Lasting: true})
			image(t, s, "aa", "body", &made)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("the image was extracted %d times", made.Load())
	}
}

// What a killed process, a failed extraction or a crash of the machine left is
// made anew.
func TestImagesThatAreNotWhole(t *testing.T) {
	dir := t.TempDir()
	var made atomic.Int32
	s := open(t, dir, Options{Lasting: true})
	broken := errors.New("broken")
	_, err := s.Image(t.Context(), "aa", func(dir string) error { return errors.Join(fill("half", &made)(dir), broken) })
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	// As a process leaves it that is killed.
	half := filepath.Join(dir, "new", "aa-"+s.owners)
	if err := os.MkdirAll(filepath.Join(half, "root", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	where := image(t, s, "aa", "body", &made)
	if _, err := os.Stat(filepath.Join(where, "x")); err == nil {
		t.Error("what was left is part of the image")
	}
	// As the machine leaves it that crashes.
	after := open(t, dir, Options{Lasting: true})
	after.boot = "another"
	_ = s.Close()
	image(t, after, "aa", "new", &made)
	if made.Load() != 3 {
		t.Errorf("the image was extracted %d times", made.Load())
	}
}

// What was not used for longest goes first, what is in use stays, and nothing that
// somebody makes is taken away.
func TestTrim(t *testing.T) {
	dir := t.TempDir()
	var made atomic.Int32
	big := strings.Repeat("x", 100<<10)
	keys := []string{"one", "two", "three"}
	s := open(t, dir, Options{Lasting: true})
	for i, k := range keys {
		image(t, s, k, big, &made)
		old := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, "images", k+"-"+s.owners+".lock"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()
	user := open(t, dir, Options{Lasting: true})
	image(t, user, "one", big, &made)
	being := filepath.Join(dir, "new", "four-"+s.owners)
	lock, err := user.lock(t.Context(), "four-"+s.owners, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(being, 0o755); err != nil {
		t.Fatal(err)
	}
	small := open(t, dir, Options{Lasting: true, Size: 250 << 10})
	_ = small.Close()
	left := func(k string) bool {
		_, err := os.Stat(filepath.Join(dir, "images", k+"-"+s.owners, "root", "file"))
		return err == nil
	}
	if !left("one") || left("two") || !left("three") {
		t.Errorf("left: one %t, two %t, three %t", left("one"), left("two"), left("three"))
	}
	if _, err := os.Stat(being); err != nil {
		t.Error("what somebody makes was removed")
	}
	_ = lock.Close()
	tiny := open(t, dir, Options{Lasting: true, Size: 1})
	_ = tiny.Close()
	if !left("one") || left("three") {
		t.Errorf("left: one, which is in use, %t, three %t", left("one"), left("three"))
	}
	if _, err := os.Stat(being); err == nil {
		t.Error("what nobody makes any more was not removed")
	}
	// Waiting for a lock ends with the build.
	if _, err := user.lock(t.Context(), "five", 2); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := tiny.lock(ctx, "five", 2); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
