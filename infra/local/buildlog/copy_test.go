package buildlog

import (
	"errors"
	"strings"
	"testing"
)

func TestCopyLines(t *testing.T) {
	const text = "one\ntwo\na line that is longer than the buffer\nhalf"
	for _, size := range []int{1, 3, 4, 64} {
		buf := make([]byte, size)
		var got strings.Builder
		at, err := CopyLines(strings.NewReader(text), 4, &buf, func(p []byte) error {
			if p[len(p)-1] != '\n' {
				t.Errorf("%q is not whole", p)
			}
			got.Write(p)
			return nil
		})
		if whole := len(text) - len("half"); err != nil || at != int64(whole) || got.String() != text[4:whole] {
			t.Errorf("buffer of %d: %q up to %d, %v", size, got.String(), at, err)
		}
	}
	enough := errors.New("enough")
	buf := make([]byte, 5)
	at, err := CopyLines(strings.NewReader(text), 0, &buf, func(p []byte) error {
		if string(p) == "two\n" {
			return enough
		}
		return nil
	})
	if at != 4 || !errors.Is(err, enough) {
		t.Errorf("stopped at %d, %v", at, err)
	}
}
