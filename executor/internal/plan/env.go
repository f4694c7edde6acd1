package plan

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// env is an environment: names and values in the order in which they were last
// set.
type env struct {
	keys []string
	vals map[string]string
}

var _ shell.EnvGetter = (*env)(nil)

func newEnv() *env { return &env{vals: map[string]string{}} }

// Get implements shell.EnvGetter.
func (e *env) Get(key string) (string, bool) {
	v, ok := e.vals[key]
	return v, ok
}

// Keys implements shell.EnvGetter.
func (e *env) Keys() []string { return e.keys }

func (e *env) set(key, value string) {
	if _, ok := e.vals[key]; ok {
		e.keys = slices.DeleteFunc(e.keys, func(k string) bool { return k == key })
	}
	e.keys = append(e.keys, key)
	e.vals[key] = value
}

func (e *env) clone() *env { return &env{keys: slices.Clone(e.keys), vals: maps.Clone(e.vals)} }

// list returns the environment as a process takes it.
func (e *env) list() []string {
	out := make([]string, 0, len(e.keys))
	for _, k := range e.keys {
		out = append(out, k+"="+e.vals[k])
	}
	return out
}

// setEnv sets a variable of an image config; one that exists keeps its place.
func setEnv(list []string, key, value string) []string {
	for i, kv := range list {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			list[i] = key + "=" + value
			return list
		}
	}
	return append(list, key+"="+value)
}

// maxWord is how long an expanded word may be, in bytes. Linux passes no
// argument or variable of more than 128 KiB to a process.
const maxWord = 1 << 20

// errLongWord stops a Dockerfile whose variables multiply each other.
var errLongWord = errors.New("the word would be longer than 1 MiB once its variables are expanded")

// expand replaces the variables of a word and removes its quotes.
func (b *builder) expand(word string, e *env) (shell.ProcessWordResult, error) {
	if err := b.checkGrowth(word, e); err != nil {
		return shell.ProcessWordResult{}, err
	}
	res, err := b.lex.ProcessWordWithMatches(word, e)
	if err == nil && len(res.Result) > maxWord {
		err = errLongWord
	}
	return res, err
}

// expandWords is expand, but splits the result at blanks.
func (b *builder) expandWords(word string, e *env) ([]string, error) {
	if err := b.checkGrowth(word, e); err != nil {
		return nil, err
	}
	return b.lex.ProcessWords(word, e)
}

// checkGrowth bounds what one expansion can allocate, from the number of
// variables and the length of the longest value.
func (b *builder) checkGrowth(word string, e *env) error {
	n := strings.Count(word, "$")
	if n == 0 {
		return nil
	}
	longest := 0
	for _, v := range e.vals {
		longest = max(longest, len(v))
	}
	size := n * longest
	if substitutes(word) {
		// ${a//x/$b} may put the whole of one value in place of each byte of another.
		size = longest * (size + len(word))
	}
	if size > 64*maxWord {
		return errLongWord
	}
	return nil
}

// substitutes reports whether a word has a ${name/pattern/replacement}.
func substitutes(word string) bool {
	for {
		_, rest, ok := strings.Cut(word, "${")
		if !ok {
			return false
		}
		word = strings.TrimLeftFunc(rest, func(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) })
		if strings.HasPrefix(word, "/") {
			return true
		}
	}
}
