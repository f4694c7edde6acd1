package conformance

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
	"github.com/kilnhook/kiln/e2e/internal/lab"
)

// options are the flags of this test.
type options struct {
	update bool
	score  string
}

// TestMain reads the flags. Cases wait for each other's disk more than they
// compute, so there are twice as many at once as there are processors.
func TestMain(m *testing.M) {
	flag.Bool("update", false, "write what is expected, from BuildKit's images, and the table in README.md")
	flag.String("score", "", "write the score to `file`")
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err) // the testing package defines it
	}
	flag.Parse()
	os.Exit(m.Run())
}

// given returns the flags, which TestMain has defined.
func given() options {
	return options{
		update: flag.Lookup("update").Value.String() == "true",
		score:  flag.Lookup("score").Value.String(),
	}
}

// TestConformance builds the corpus; see the package comment.
func TestConformance(t *testing.T) {
	cases, err := readCorpus("testdata")
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{options: given(), lab: lab.New(t, filepath.Join("..", "..")), score: newScore()}
	t.Cleanup(func() {
		if err := s.score.write(s.options.score); err != nil {
			t.Error(err)
		}
	})
	byFeature := map[string][]*testCase{}
	var features []string
	for _, c := range cases {
		if byFeature[c.feature] == nil {
			features = append(features, c.feature)
		}
		byFeature[c.feature] = append(byFeature[c.feature], c)
	}
	for _, feature := range features {
		t.Run(feature, func(t *testing.T) {
			t.Parallel()
			for _, c := range byFeature[feature] {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					s.test(t, c)
				})
			}
		})
	}
}

// suite is what the cases share.
type suite struct {
	options
	lab   *lab.Lab
	score *score
}

// built is an image of a case.
type built struct {
	img      v1.Image
	tree     *compare.Tree
	warnings []string
}

// test builds one case in every way.
func (s *suite) test(t *testing.T, c *testCase) {
	r := &result{testCase: c, explained: map[string][]compare.Difference{}, passed: map[string]bool{}}
	defer s.score.add(r)
	l, err := c.layOut(t.TempDir(), strings.NewReplacer("$REGISTRY", s.lab.Host, "$BUSYBOX", s.lab.Busybox))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, base := range l.bases {
		if _, err := s.lab.BuildKit(t.Context(), "library/"+base[0], lab.Build{Context: l.build.Context, Dockerfile: base[1]}); err != nil {
			t.Fatal(err)
		}
	}
	repo := c.feature + "/" + strings.ToLower(c.name)
	got := map[string]string{} // what .want should be
	var oracle *built
	out, err := s.lab.BuildKit(t.Context(), "buildkit/"+repo, l.build)
	switch {
	case err == nil && c.builtByBuildKit():
		oracle = s.open(t, out, l.build)
		s.describe(t, c, oracle, got)
	case err == nil:
		t.Fatalf("BuildKit builds what it is expected to refuse: %s", out.Ref)
	case c.builtByBuildKit():
		t.Fatal(err)
	default:
		t.Logf("BuildKit refuses: %v", err)
	}
	for _, mode := range []string{overlay, inPlace} {
		if mode == inPlace && c.onlyOverlay {
			continue
		}
		r.passed[mode] = t.Run(mode, func(t *testing.T) {
			img := s.build(t, c, mode, repo, l.build, got)
			switch {
			case img == nil:
			case oracle == nil:
				oracle = img // of a case that BuildKit refuses
				s.describe(t, c, oracle, got)
			default:
				r.explained[mode] = s.compare(t, c, mode, oracle, img)
			}
		})
	}
	s.checkWant(t, c, got)
	r.ok = !t.Failed()
}

// build builds a case in one mode. It returns nil if that is refused, as
// expected.
func (s *suite) build(t *testing.T, c *testCase, mode, repo string, b lab.Build, got map[string]string) *built {
	t.Helper()
	how := s.lab.Overlay
	if mode == inPlace {
		how = s.lab.InPlace
	}
	out, err := s.lab.Guard(t, repo, b, how)
	switch {
	case err != nil:
		t.Fatal(err)
	case c.builds(mode) && out.Error != "":
		t.Fatalf("refused: %s\n%s", out.Error, out.Log)
	case c.builds(mode):
		return s.open(t, out, b)
	case out.Error == "":
		t.Fatalf("built what is expected to be refused")
	}
	message := s.neutral(out.Error) + "\n"
	if first, ok := got["error"]; ok && first != message {
		t.Errorf("the modes refuse with different messages:\n%s%s", first, message)
	}
	got["error"] = message
	if out.Status != c.status {
		t.Errorf("the executor's status is %d, want %d", out.Status, c.status)
	}
	return nil
}

// neutral removes what another run has differently.
func (s *suite) neutral(text string) string {
	return anyOrigin.ReplaceAllString(strings.ReplaceAll(text, s.lab.Host, "REGISTRY"), originName)
}

// open reads an image.
func (s *suite) open(t *testing.T, out lab.Outcome, b lab.Build) *built {
	t.Helper()
	img, err := s.lab.Image(t.Context(), out.Ref, b.Platform)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := s.lab.Tree(t.Context(), img)
	if err != nil {
		t.Fatalf("%s: %v", out.Ref, err)
	}
	return &built{img, tree, out.Warnings}
}

// describe notes what an image is.
func (s *suite) describe(t *testing.T, c *testCase, b *built, got map[string]string) {
	t.Helper()
	config, err := configOf(b.img)
	if err != nil {
		t.Fatal(err)
	}
	got["config"], got["tree"] = s.neutral(config), s.neutral(treeOf(b.tree, c.mtimes))
	if len(b.warnings) > 0 {
		got["warnings"] = s.neutral(strings.Join(sortedWarnings(b.warnings), "\n") + "\n")
	}
}

// compare fails the test for every difference to BuildKit's image that the
// case does not allow, and returns those that it does.
func (s *suite) compare(t *testing.T, c *testCase, mode string, oracle, img *built) []compare.Difference {
	t.Helper()
	diffs, err := compare.Configs(oracle.img, img.img)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range compare.Trees(oracle.tree, img.tree, compare.Options{Layers: true, ModTimes: len(c.mtimes) > 0}) {
		if d.Field != "mtime" || timed(d.Where, c.mtimes) {
			diffs = append(diffs, d)
		}
	}
	diffs = append(diffs, compareWarnings(oracle.warnings, img.warnings)...)
	rest, explained, err := compare.Excuse(diffs, c.allow[mode])
	if err != nil {
		t.Error(err)
	}
	for _, d := range rest {
		t.Errorf("BuildKit | ours: %s", d)
	}
	return explained
}

// checkWant compares what came out with what the case says, or writes it there.
func (s *suite) checkWant(t *testing.T, c *testCase, got map[string]string) {
	t.Helper()
	if s.update {
		if err := c.expect(got); err != nil {
			t.Error(err)
		}
		return
	}
	if runtime.GOARCH != wantArch {
		return
	}
	for _, name := range []string{"config", "tree", "warnings", "error"} {
		want, there := c.expected(name)
		text, made := got[name]
		if there == made && want == text || t.Failed() && !made {
			continue
		}
		err := errors.New("run the test with -update and look at what it writes")
		if there && made {
			err = fmt.Errorf("it is\n%s\nand should be\n%s", text, want)
		}
		t.Errorf("%s: %s%s: %v", c.file, wantDir, name, err)
	}
}
