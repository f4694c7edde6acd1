package dockerfile

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Ignore is a .dockerignore file: it says which files of a build context do not
// exist as far as the build is concerned. A nil *Ignore excludes nothing. It is
// safe for concurrent use.
type Ignore struct {
	name string

	mu      sync.Mutex
	matcher *patternmatcher.PatternMatcher // not safe for concurrent use, hence mu
	chain   []matchedDir                   // the directories above the name asked about last
}

type matchedDir struct {
	name string
	info patternmatcher.MatchInfo
}

// IgnoreNames returns where the ignore file of a Dockerfile may be, the first
// that exists counts: beside the Dockerfile, then at the root of the context.
func IgnoreNames(dockerfile string) []string {
	return []string{dockerfile + ".dockerignore", ".dockerignore"}
}

// ParseIgnore reads an ignore file. name is used in messages. Every error is
// an [*Error] that names the line.
func ParseIgnore(name string, content []byte) (*Ignore, error) {
	if len(content) > MaxSize {
		return nil, &Error{Pos: Pos{name, 1}, Err: fmt.Errorf("the file has %d bytes, more than the %d allowed", len(content), MaxSize)}
	}
	content = bytes.TrimPrefix(content, []byte("\xEF\xBB\xBF"))
	var patterns []string
	line := 0
	for text := range bytes.Lines(content) {
		line++
		// One line at a time, for its number.
		found, err := ignorefile.ReadAll(bytes.NewReader(text))
		if err == nil {
			err = checkPatterns(found)
		}
		if err != nil {
			return nil, &Error{Pos: Pos{name, line}, Text: string(bytes.TrimSpace(text)), Err: err}
		}
		patterns = append(patterns, found...)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, &Error{Pos: Pos{name, 1}, Err: err}
	}
	return &Ignore{name: name, matcher: m}, nil
}

// NewPatterns makes an Ignore of patterns that stand in no file.
func NewPatterns(patterns []string) (*Ignore, error) {
	if err := checkPatterns(patterns); err != nil {
		return nil, err
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	return &Ignore{matcher: m}, nil
}

// checkPatterns compiles each pattern, which the matcher does on first use
// only, so that a bad one is found now.
func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := patternmatcher.New([]string{p}); err != nil {
			return err
		}
		m, err := patternmatcher.New([]string{strings.TrimLeft(p, "!")})
		if err != nil {
			return err
		}
		if _, err := m.MatchesOrParentMatches("x"); err != nil {
			return err
		}
	}
	return nil
}

// Name returns the name of the file.
func (i *Ignore) Name() string {
	if i == nil {
		return ""
	}
	return i.name
}

// Excluded reports whether the file of that name, or a directory above it, is
// excluded and not included again by a later "!" pattern. name is slash
// separated and relative to the context; the root is never excluded. Asking
// about the files of a directory one after another is cheap.
func (i *Ignore) Excluded(name string) bool {
	if i == nil || name == "." || name == "" || len(i.matcher.Patterns()) == 0 {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.chain) > 0 && !below(i.chain[len(i.chain)-1].name, name) {
		i.chain = i.chain[:len(i.chain)-1]
	}
	var above patternmatcher.MatchInfo
	at := 0
	if n := len(i.chain); n > 0 {
		above, at = i.chain[n-1].info, len(i.chain[n-1].name)+1
	}
	for {
		slash := strings.IndexByte(name[at:], '/')
		if slash < 0 {
			break
		}
		dir := name[:at+slash]
		// The patterns were compiled when they were read: no error is left.
		_, info, err := i.matcher.MatchesUsingParentResults(dir, above)
		if err != nil {
			return false
		}
		i.chain = append(i.chain, matchedDir{dir, info})
		above, at = info, at+slash+1
	}
	excluded, _, err := i.matcher.MatchesUsingParentResults(name, above)
	return err == nil && excluded
}

func below(dir, name string) bool {
	return len(name) > len(dir) && name[len(dir)] == '/' && name[:len(dir)] == dir
}

// Negates reports whether the file has a "!" pattern.
func (i *Ignore) Negates() bool { return i != nil && i.matcher.Exclusions() }

// ExcludesAll reports whether a pattern excludes everything there may be.
func (i *Ignore) ExcludesAll() bool {
	if i == nil {
		return false
	}
	return slices.ContainsFunc(i.matcher.Patterns(), func(p *patternmatcher.Pattern) bool {
		return !p.Exclusion() && (p.String() == "*" || p.String() == "**" || p.String() == "**/*")
	})
}

// MayHold reports whether a "!" pattern could include a file below dir, which
// is excluded itself. If not, dir need not be looked into.
func (i *Ignore) MayHold(dir string) bool {
	if i == nil || !i.matcher.Exclusions() {
		return false
	}
	parts := strings.Split(dir, "/")
	for _, p := range i.matcher.Patterns() {
		if p.Exclusion() && mayMatchBelow(p.String(), parts) {
			return true
		}
	}
	return false
}

// Reaches reports whether a pattern could match a file below dir. If it matches
// neither dir nor a directory above it and this is false, it matches nothing
// there.
func (i *Ignore) Reaches(dir string) bool {
	if i == nil {
		return false
	}
	parts := strings.Split(dir, "/")
	return slices.ContainsFunc(i.matcher.Patterns(), func(p *patternmatcher.Pattern) bool {
		return !p.Exclusion() && mayMatchBelow(p.String(), parts)
	})
}

// mayMatchBelow reports whether pattern could match a name below the directory.
func mayMatchBelow(pattern string, dir []string) bool {
	if strings.Contains(pattern, "**") || strings.Contains(pattern, "[^") {
		return true
	}
	parts := strings.Split(pattern, "/")
	if len(parts) <= len(dir) {
		return false
	}
	for n, d := range dir {
		if ok, err := filepath.Match(parts[n], d); err == nil && !ok {
			return false
		}
	}
	return true
}
