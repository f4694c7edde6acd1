package compare

import (
	"context"
	"slices"
	"strings"
	"testing"
)

func contextWithCause(t *testing.T) (context.Context, context.CancelCauseFunc) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return ctx, cancel
}

// TestExcuse proves which differences a rule covers.
func TestExcuse(t *testing.T) {
	d := Difference{Part: "tree", Where: "/etc/ssl/certs", Field: "mode", A: "0755", B: "0700"}
	for _, c := range []struct {
		rule Rule
		want bool
	}{
		{Rule{"tree", "/etc/ssl/certs", "mode", "why"}, true},
		{Rule{"tree", "/etc/*/certs", "mode", "why"}, true},
		{Rule{"tree", "/etc/*", "mode", "why"}, false},
		{Rule{"tree", "/etc/**", "*", "why"}, true},
		{Rule{"tree", "/etc/ssl/certs/**", "*", "why"}, true},
		{Rule{"tree", "/etc/ss/**", "*", "why"}, false},
		{Rule{"tree", "*", "uid", "why"}, false},
		{Rule{"config", "*", "*", "why"}, false},
	} {
		rest, excused, err := Excuse([]Difference{d}, []Rule{c.rule})
		if !c.want {
			if err == nil || !strings.Contains(err.Error(), "allowed nothing") {
				t.Errorf("%s: rest %v, error %v; want an error for an idle rule", c.rule, rest, err)
			}
			continue
		}
		if err != nil || len(rest) != 0 || !slices.Equal(excused, []Difference{d}) {
			t.Errorf("%s: rest %v, excused %v, error %v", c.rule, rest, excused, err)
		}
	}
}

// TestParseRules proves what a rules file may hold and that a reason is needed.
func TestParseRules(t *testing.T) {
	got, err := ParseRules(strings.NewReader("# comment\n\n tree /etc/hosts * # made by the run time # really\n"))
	want := []Rule{{"tree", "/etc/hosts", "*", "made by the run time # really"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for text, want := range map[string]string{
		"tree /etc/hosts *":         "line 1: rule \"tree /etc/hosts * # \" gives no reason",
		"tree /etc/hosts * # ":      "line 1: rule \"tree /etc/hosts * # \" gives no reason",
		"\ntree /etc/hosts # why":   "line 2: want PART WHERE FIELD # REASON, got \"tree /etc/hosts # why\"",
		"tree /etc/[ mode # reason": "line 1: rule \"tree /etc/[ mode # reason\": syntax error in pattern",
	} {
		if _, err := ParseRules(strings.NewReader(text)); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// FuzzParseRules proves that no text breaks the reader and that what it reads
// prints as a line that reads the same.
func FuzzParseRules(f *testing.F) {
	f.Add("tree /etc/hosts * # reason\n")
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := ParseRules(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, r := range rules {
			again, err := ParseRules(strings.NewReader(r.String()))
			if strings.HasPrefix(r.Part, "#") {
				continue
			}
			if err != nil || len(again) != 1 || again[0] != r {
				t.Errorf("%q reads as %v, %v", r, again, err)
			}
		}
	})
}
