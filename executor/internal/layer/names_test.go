package layer

import (
	"fmt"
	"testing"
)

func TestNameSet(t *testing.T) {
	s := newNameSet()
	for d := range 30 {
		for f := range 100 {
			s.add(fmt.Sprintf("a/d%d/f%d", d%10, d*100+f))
		}
	}
	s.add("b")
	for name, want := range map[string]bool{
		"a": true, "a/d3": true, "a/d3/f300": true, "a/d9/f2999": true, "b": true,
		"a/d10": false, "a/d3/f400": false, "f300": false, "d3": false, "a/d3/f300/x": false,
	} {
		if got := s.has(name); got != want {
			t.Errorf("has %s: %v, want %v", name, got, want)
		}
	}
}
