package plan

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/rogpeppe/go-internal/txtar"
)

// corpus returns the files of that name in the cases that e2e/conformance
// compares with BuildKit: seeds that use all of the language.
func corpus(t testing.TB, name string) []string {
	t.Helper()
	files, err := filepath.Glob("../../../e2e/conformance/testdata/*/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d cases, %v", len(files), err)
	}
	var out []string
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range a.Files {
			if f.Name == name {
				out = append(out, string(f.Data))
			}
		}
	}
	return out
}

// The expansion of a word has an end and a bound, comes out the same twice, and
// leaves alone what has nothing to expand.
func FuzzExpand(f *testing.F) {
	for _, word := range []string{
		"$A", "${A}", "${A:-x}", "${A-x}", "${A:+x}", "${A+x}", "${A:?x}", "${A?x}", "${A#x}", "${A##*/}", "${A%.*}", "${A%%.*}",
		"${A/b/c}", "${A//b/$C}", "${A/#b/c}", "${A:-${B:-'c'}}", `"$A"`, `'$A'`, `\$A`, `"\$A"`, "$1$@$*$$", "${A", "a b\tc", "ü☃$Ü", "`$A", "$A$A$A",
	} {
		f.Add(word, "value.of/a b", "", false)
		f.Add(word, "", "*?[x]", true)
	}
	for _, text := range corpus(f, "Dockerfile") {
		for word := range strings.FieldsSeq(text) {
			if strings.Contains(word, "$") {
				f.Add(word, "a/b.c", "x", false)
			}
		}
	}
	f.Fuzz(func(t *testing.T, word, a, b string, backtick bool) {
		escape := '\\'
		if backtick {
			escape = '`'
		}
		x := &builder{lex: shell.NewLex(escape)}
		e := newEnv()
		e.set("A", a)
		e.set("B", b)
		res, err := x.expand(word, e)
		words, werr := x.expandWords(word, e)
		if err == nil && len(res.Result) > maxWord {
			t.Fatalf("the result has %d bytes", len(res.Result))
		}
		again, err2 := x.expand(word, e)
		if (err == nil) != (err2 == nil) || again.Result != res.Result {
			t.Fatalf("%q and %q, %v and %v", res.Result, again.Result, err, err2)
		}
		// BuildKit's scanner reads text: it drops a byte order mark and replaces
		// bytes that are no characters.
		if strings.ContainsAny(word, "$'\"\\`\ufeff\x00") || !utf8.ValidString(word) {
			return
		}
		if err != nil || res.Result != word {
			t.Fatalf("%q became %q, %v", word, res.Result, err)
		}
		if werr != nil || strings.Join(words, "") != strings.Join(strings.FieldsFunc(word, isBlank), "") {
			t.Fatalf("%q has the words %q, %v", word, words, werr)
		}
	})
}

func isBlank(r rune) bool { return strings.ContainsRune(" \t\n\v\f\r\u0085\u00a0", r) }
