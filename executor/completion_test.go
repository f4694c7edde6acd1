package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// What is completed of a flag's values is what the flag takes, and nothing else is
// taken.
func TestCompletedValues(t *testing.T) {
	var c config
	found := 0
	newFlags(&c, io.Discard).VisitAll(func(f *pflag.Flag) {
		values := valuesOf(f.Name)
		if values == nil {
			return
		}
		found++
		for _, v := range append([]string{"nonsense"}, values...) {
			var c config
			flags := newFlags(&c, io.Discard)
			err := flags.Parse([]string{"--no-push", "--" + f.Name + "=" + v})
			if err == nil {
				err = c.check()
			}
			if f.Name == "isolation" { // judged when it is needed
				continue
			}
			if (err != nil) != (v == "nonsense") {
				t.Errorf("--%s=%s: %v", f.Name, v, err)
			}
		}
	})
	if found != 7 {
		t.Errorf("%d flags have values", found)
	}
}

// Every flag is in the script of every shell.
func TestCompletionHasEveryFlag(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		out := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(r)
			out <- b
		}()
		err = completion(process{args: []string{"executor", "completion", shell}, stdout: w})
		_ = w.Close()
		script := <-out
		if err != nil {
			t.Fatal(err)
		}
		var c config
		newFlags(&c, io.Discard).VisitAll(func(f *pflag.Flag) {
			if name := strings.TrimPrefix("--"+f.Name, map[string]string{"fish": "--"}[shell]); !f.Hidden && !bytes.Contains(script, []byte(name)) {
				t.Errorf("%s: there is no %s", shell, name)
			}
		})
	}
	for _, args := range [][]string{{"executor", "completion"}, {"executor", "completion", "csh"}} {
		if err := completion(process{args: args}); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
