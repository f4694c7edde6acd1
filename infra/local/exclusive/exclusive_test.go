package exclusive

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// One at a time: the second is refused while the first has the lock, and gets it
// if the first lets go while it waits.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Lock(path); !errors.Is(err, ErrLocked) || second != nil {
		t.Fatalf("a second lock: %v %v, want ErrLocked", second, err)
	}
	time.AfterFunc(Patience/10, func() { first.Close() })
	second, err := Lock(path)
	if err != nil {
		t.Fatalf("a lock that is let go within %s: %v", Patience, err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(filepath.Join(path, "none")); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("a path that cannot be: %v", err)
	}
}
