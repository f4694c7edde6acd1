package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
)

// wantDir holds what is expected, contextsDir the further contexts of a case.
const (
	wantDir     = ".want/"
	contextsDir = ".contexts/"
)

// refusal says who refuses to build a case.
type refusal string

const (
	refusedByNone     refusal = ""
	refusedByAll      refusal = "refused"
	refusedByKiln     refusal = "refused-by-kiln"
	refusedByBuildKit refusal = "refused-by-buildkit"
	refusedInPlace    refusal = "refused-inplace"
)

// modes of the executor.
const (
	overlay = "overlay"
	inPlace = "inplace"
)

// testCase is a file of the corpus.
type testCase struct {
	feature, name string
	file          string
	archive       *txtar.Archive
	proves        string // the remarks at the top

	refused     refusal
	onlyOverlay bool
	reason      string // of refused or onlyOverlay
	status      int    // of an executor that refuses
	mtimes      []string
	allow       map[string][]compare.Rule // by mode

	// What layout carries out, in order.
	directives []directive
}

// directive is a line of the text before the files.
type directive struct{ line, word, rest string }

// readCorpus reads every case below dir.
func readCorpus(dir string) ([]*testCase, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.txtar"))
	if err != nil {
		return nil, err
	}
	var cases []*testCase
	for _, file := range files {
		c, err := readCase(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// readCase reads a case and checks what can be checked without building it.
func readCase(file string) (*testCase, error) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		return nil, err
	}
	c := &testCase{
		feature: filepath.Base(filepath.Dir(file)), name: strings.TrimSuffix(filepath.Base(file), ".txtar"),
		file: file, archive: archive, status: 1, allow: map[string][]compare.Rule{},
	}
	first := true
	for line := range strings.Lines(string(archive.Comment)) {
		line = strings.TrimRight(line, "\n")
		if remark, ok := strings.CutPrefix(line, "#"); ok {
			if first {
				c.proves = strings.TrimSpace(c.proves + " " + strings.TrimSpace(remark))
			}
			continue
		}
		if first = false; strings.TrimSpace(line) == "" {
			continue
		}
		if err := c.read(line); err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
	}
	if c.proves == "" {
		return nil, errors.New("no remark says what the case proves")
	}
	return c, nil
}

// read takes one directive.
func (c *testCase) read(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	what, reason, _ := strings.Cut(rest, "#")
	what, reason = strings.TrimSpace(what), strings.TrimSpace(reason)
	switch word {
	case "refused":
		c.refused = refusedByAll
	case "refused-by-kiln", "refused-by-buildkit", "refused-inplace":
		c.refused, c.reason = refusal(word), reason
	case "only-overlay":
		c.onlyOverlay, c.reason = true, reason
	case "status":
		var err error
		c.status, err = strconv.Atoi(rest)
		return err
	case "mtime":
		c.mtimes = append(c.mtimes, rest)
		return nil
	case "allow", "allow-overlay", "allow-inplace":
		rules, err := compare.ParseRules(strings.NewReader(rest))
		for _, mode := range []string{overlay, inPlace} {
			if word == "allow" || word == "allow-"+mode {
				c.allow[mode] = append(c.allow[mode], rules...)
			}
		}
		return err
	default:
		c.directives = append(c.directives, directive{line, word, rest})
		return nil
	}
	if needsReason := c.onlyOverlay || c.refused != refusedByNone && c.refused != refusedByAll; needsReason && c.reason == "" || what != "" {
		return errors.New("want a reason after #")
	}
	return nil
}

// expected returns a file below .want.
func (c *testCase) expected(name string) (string, bool) {
	for _, f := range c.archive.Files {
		if f.Name == wantDir+name {
			return string(f.Data), true
		}
	}
	return "", false
}

// expect replaces what is expected by want, files by name, and writes the case.
func (c *testCase) expect(want map[string]string) error {
	a := &txtar.Archive{Comment: c.archive.Comment}
	for _, f := range c.archive.Files {
		if !strings.HasPrefix(f.Name, wantDir) {
			a.Files = append(a.Files, f)
		}
	}
	for _, name := range []string{"config", "tree", "warnings", "error"} {
		if text, ok := want[name]; ok {
			a.Files = append(a.Files, txtar.File{Name: wantDir + name, Data: []byte(text)})
		}
	}
	c.archive = a
	return os.WriteFile(c.file, txtar.Format(a), 0o644)
}

// builds says whether a mode is expected to build the case.
func (c *testCase) builds(mode string) bool {
	switch c.refused {
	case refusedByAll, refusedByKiln:
		return false
	case refusedInPlace:
		return mode != inPlace
	case refusedByNone, refusedByBuildKit:
	}
	return true
}

// builtByBuildKit says whether BuildKit is expected to build the case.
func (c *testCase) builtByBuildKit() bool {
	return !slices.Contains([]refusal{refusedByAll, refusedByBuildKit}, c.refused)
}
