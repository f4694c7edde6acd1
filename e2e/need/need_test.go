package need

import (
	"runtime"
	"strings"
	"testing"
)

// fake records how a test ended.
type fake struct {
	testing.TB
	skipped, failed bool
}

func (*fake) Helper() {}

func (f *fake) Skipf(string, ...any) {
	f.skipped = true
	runtime.Goexit()
}

func (f *fake) Fatalf(string, ...any) {
	f.failed = true
	runtime.Goexit()
}

// TestMissing proves that a test is skipped for want of something, and fails
// where the environment says that nothing may be missing.
func TestMissing(t *testing.T) {
	for value, want := range map[string]fake{"": {skipped: true}, "0": {skipped: true}, "1": {failed: true}} {
		t.Setenv(RequireVariable, value)
		var got fake
		done := make(chan struct{})
		go func() {
			defer close(done)
			Command(&got, "no-such-program")
		}()
		<-done
		if got != want {
			t.Errorf("%s=%q: got %+v, want %+v", RequireVariable, value, got, want)
		}
	}
}

// TestThere proves that what is there is no reason to skip.
func TestThere(t *testing.T) {
	if path := Command(t, "sh"); !strings.HasSuffix(path, "/sh") {
		t.Errorf("sh is %q", path)
	}
}
