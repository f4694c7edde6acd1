package compat

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// kind is what a row is about.
type kind string

const (
	flagKind    kind = "flag"    // of the executor
	pushKind    kind = "push"    // a flag of executor push
	loginKind   kind = "login"   // a flag of executor login
	warmerKind  kind = "warmer"  // a flag of the warmer
	doctorKind  kind = "doctor"  // a flag of executor doctor
	commandKind kind = "command" // a subcommand or a program
	envKind     kind = "env"     // an environment variable
	pathKind    kind = "path"    // a path in the container
	contextKind kind = "context" // a form of --context
	authKind    kind = "registry"
	failureKind kind = "failure" // what goes wrong, and what is said then
	defectKind  kind = "defect"  // of kaniko, that must not be Kiln's
)

// row is one promise and its proof.
type row struct {
	kind kind
	// name is what a user writes, other spellings after commas.
	name string
	// kaniko is its default, or what kaniko does.
	kaniko string
	// does is what Kiln does; run proves it.
	does string
	// differs is how that is not what kaniko does, on purpose; "" if it is.
	differs string
	// refused is the error of what is not supported; "" if it is.
	refused string
	run     func(t *testing.T, k *kit)
}

// names are all the spellings.
func (r row) names() []string {
	if r.prose() {
		return []string{r.name}
	}
	return strings.Split(r.name, ", ")
}

// prose says that the name is not something that users type.
func (r row) prose() bool {
	return r.kind == failureKind || r.kind == defectKind || r.kind == authKind
}

// table is every row.
func table() []row {
	return slices.Concat(
		inputRows(), outputRows(), cacheRows(), registryRows(), mirrorRows(), howRows(), logRows(), mountRows(),
		commandRows(), warmerRows(), envRows(), ignoredRows(), cloudRegistryRows(), credentialRows(), cloudRows(), contextRows(), gitRows(), pathRows(), failureRows(), transferRows(), defectRows(),
	)
}

// TestMain lets more rows run at once than there are processors: most of them
// wait for a program, and many for a retry.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// TestCompatibility runs every row, and looks for flags without one.
func TestCompatibility(t *testing.T) {
	l := newLab(t)
	t.Run("flags", func(t *testing.T) { everyFlag(t, newKit(t, l)) })
	t.Run("defaults", func(t *testing.T) { everyDefault(t, newKit(t, l)) })
	for _, r := range table() {
		// Neither overlays nor flags take every character of a directory's name.
		t.Run(string(r.kind)+"/"+strings.ReplaceAll(r.name, ", ", " "), func(t *testing.T) {
			t.Parallel()
			r.run(t, newKit(t, l))
		})
	}
}

// TestRows proves that rows are complete and that no two are about the same.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range table() {
		if r.name == "" || r.does == "" || r.run == nil {
			t.Errorf("row %s %q is not complete", r.kind, r.name)
		}
		for _, n := range r.names() {
			if key := string(r.kind) + " " + n; seen[key] {
				t.Errorf("two rows are about %s", key)
			} else {
				seen[key] = true
			}
		}
	}
}

// TestPromises proves that everything in testdata/promises.txt has a row.
func TestPromises(t *testing.T) {
	have := map[string]bool{}
	for _, r := range table() {
		for _, n := range r.names() {
			have[string(r.kind)+" "+n] = true
		}
	}
	all := promises(t)
	for _, p := range all {
		if !have[p.name] {
			t.Errorf("promises.txt: %q has no row", p.name)
		}
	}
	if len(all) < 150 {
		t.Errorf("there are only %d promises", len(all))
	}
}

// promise is a line of promises.txt.
type promise struct {
	name         string // the kind of row and its name
	defaultValue string // of a flag
	hasDefault   bool   // it says which
}

func promises(t *testing.T) []promise {
	t.Helper()
	raw, err := os.ReadFile("testdata/promises.txt")
	check(t, err)
	var out []promise
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p := promise{name: line}
		if name, value, ok := strings.Cut(line, " ="); ok && strings.HasPrefix(line, "flag --") {
			p = promise{name, strings.TrimSpace(value), true}
		}
		out = append(out, p)
	}
	return out
}

// everyDefault proves that flags have kaniko's defaults, or that their rows say
// that they have others.
func everyDefault(t *testing.T, k *kit) {
	differs := map[string]bool{}
	for _, r := range table() {
		for _, n := range r.names() {
			differs[string(r.kind)+" "+n] = r.differs != ""
		}
	}
	have := map[string]string{}
	line := regexp.MustCompile(`(?m)^\s+(?:-\w, )?(--[a-z][a-z0-9-]+)(.*)$`)
	value := regexp.MustCompile(`\(default "?([^"]*?)"?\)$`)
	for _, m := range line.FindAllStringSubmatch(k.exec("--help").ok().stderr, -1) {
		have["flag "+m[1]] = ""
		if v := value.FindStringSubmatch(m[2]); v != nil {
			have["flag "+m[1]] = v[1]
		}
	}
	judged := 0
	for _, p := range promises(t) {
		got, known := have[p.name] // old spellings are not listed
		if !p.hasDefault || !known {
			continue
		}
		if judged++; got != p.defaultValue && !differs[p.name] {
			t.Errorf("%s is %q by default, kaniko's is %q, and its row does not say so", p.name, got, p.defaultValue)
		}
	}
	if judged < 55 {
		t.Errorf("only %d defaults were compared", judged)
	}
}

// everyFlag proves that every flag that the programs know has a row.
func everyFlag(t *testing.T, k *kit) {
	rows := map[kind]map[string]bool{}
	for _, r := range table() {
		if rows[r.kind] == nil {
			rows[r.kind] = map[string]bool{}
		}
		for _, n := range r.names() {
			rows[r.kind][n] = true
		}
	}
	for of, args := range map[kind][]string{
		flagKind: {k.executor, "--help"}, pushKind: {k.executor, "push", "--help"}, loginKind: {k.executor, "login", "--help"},
		doctorKind: {k.executor, "doctor", "--help"}, warmerKind: {k.warmer, "--help"},
	} {
		help := k.command(args[0], args[1:]...).ok().stderr
		flags := regexp.MustCompile(`(?m)^\s+(?:(-\w), )?(--[a-z][a-z0-9-]+)`).FindAllStringSubmatch(help, -1)
		if len(flags) < 3 {
			t.Errorf("%s: no flags in %s", args, help)
		}
		for _, f := range flags {
			for _, spelling := range f[1:] {
				if spelling != "" && !rows[of][spelling] && !(of != flagKind && of != warmerKind && rows[flagKind][spelling]) {
					t.Errorf("%s: %s has no row", strings.Join(args, " "), spelling)
				}
			}
		}
	}
}

var update = flag.Bool("update", false, "write docs/compatibility.md")

// TestDocument proves that docs/compatibility.md is what the rows say.
func TestDocument(t *testing.T) {
	const path = "../../docs/compatibility.md"
	want := document(table())
	if *update {
		check(t, os.MkdirAll("../../docs", 0o755))
		check(t, os.WriteFile(path, want, 0o644))
	}
	got, err := os.ReadFile(path)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("docs/compatibility.md is not what the rows say: run go test ./e2e/compat -run TestDocument -update")
	}
}

// document writes the rows as a page.
func document(rows []row) []byte {
	var b bytes.Buffer
	b.WriteString(`# Compatibility with kaniko

Every row is a test of e2e/compat that runs the built program; this page is made
from them by ` + "`go test ./e2e/compat -run TestDocument -update`" + `.
`)
	for _, s := range []struct {
		kind         kind
		title, first string
	}{
		{flagKind, "Flags of the executor", "flag"},
		{commandKind, "Programs and subcommands", "command"},
		{warmerKind, "Flags of the warmer", "flag"},
		{doctorKind, "Flags of `executor doctor`, beside those of a build", "flag"},
		{pushKind, "Flags of `executor push`, beside those for registries", "flag"},
		{loginKind, "Flags of `executor login`, beside those for registries", "flag"},
		{envKind, "Environment", "variable"},
		{pathKind, "Paths", "path"},
		{contextKind, "Contexts", "`--context`"},
		{authKind, "Registries and their credentials", "registry"},
		{failureKind, "What fails, and what is said", "failure"},
		{defectKind, "Mistakes of kaniko's that are not repeated", "mistake"},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| %s | kaniko | Kiln | difference |\n|---|---|---|---|\n", s.title, s.first)
		for _, r := range rows {
			if r.kind != s.kind {
				continue
			}
			differs := r.differs
			if r.refused != "" {
				differs = strings.TrimPrefix(differs+"; refused: `"+r.refused+"`", "; ")
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", spelled(r), cell(r.kaniko), cell(r.does), cell(differs))
		}
	}
	return b.Bytes()
}

// spelled is the first cell of a row.
func spelled(r row) string {
	if r.prose() {
		return cell(r.name)
	}
	var out []string
	for _, n := range r.names() {
		out = append(out, "`"+cell(n)+"`")
	}
	return strings.Join(out, ", ")
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
