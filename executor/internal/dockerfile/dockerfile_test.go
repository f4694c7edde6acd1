package dockerfile

import (
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

func mustParse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Stages, global ARGs and the escape character arrive as written.
func TestParse(t *testing.T) {
	f := mustParse(t, "\uFEFF# escape=`\nARG V=1\nARG W\nFROM a:$V AS Build\nRUN x `\n  y\nFROM build\nCOPY --from=build /a /b\n")
	if f.Escape != '`' || len(f.Args) != 2 || len(f.Stages) != 2 {
		t.Fatalf("escape %q, %d args, %d stages", f.Escape, len(f.Args), len(f.Stages))
	}
	if f.Stages[0].Name != "build" || f.Stages[0].BaseName != "a:$V" || f.Stages[1].BaseName != "build" {
		t.Errorf("stages are %+v", f.Stages)
	}
	run, ok := f.Stages[0].Commands[0].(*instructions.RunCommand)
	if !ok || run.CmdLine[0] != "x   y" {
		t.Errorf("RUN is %+v", f.Stages[0].Commands[0])
	}
	if got := f.Pos(f.Stages[1].Commands[0].Location()).String(); got != "Dockerfile:8" {
		t.Errorf("the COPY is at %s", got)
	}
}

// Every fault names its line, what is written there and what is wrong.
func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", " \n", "Dockerfile:1: the Dockerfile is empty"},
		{"comments only", "# a\n# b\n", "Dockerfile:2: # b: file with no instructions"},
		{"no FROM", "ARG a=1\n", "Dockerfile:1: the Dockerfile has no FROM"},
		{"before FROM", "ARG a\nRUN x\nFROM y\n", "Dockerfile:2: RUN x: a FROM must come first"},
		{"unknown flag", "FROM a\n\nCOPY --chmdo=7 a b\n", "Dockerfile:3: COPY --chmdo=7 a b: unknown flag: --chmdo (did you mean chmod?)"},
		{"unknown instruction", "FROM a\nCOPPY a b\n", "Dockerfile:2: COPPY a b: unknown instruction: COPPY (did you mean COPY?)"},
		{"stage name", "FROM a AS 1x\n", `Dockerfile:1: FROM a AS 1x: invalid name for build stage: "1x", name can't start with a number or contain symbols`},
		{"heredoc", "FROM a\nRUN <<EOF\nx\n", "Dockerfile:2: RUN <<EOF x: unterminated heredoc"},
		{"escape", "# escape=x\nFROM a\n", "Dockerfile:1: # escape=x: invalid escape token 'x' does not match ` or \\"},
		{"check", "# check=bogus\nFROM a\n", `Dockerfile:1: # check=bogus: invalid check option "bogus"`},
		{"many lines", "FROM a\nENV \\\n  a=b \\\n  c\n", "Dockerfile:2: ENV a=b c: Syntax error - can't find = in \"c\". Must be of the form: name=value"},
		{"onbuild", "FROM a\nONBUILD FROM x\n", "Dockerfile:2: ONBUILD FROM x: FROM isn't allowed as an ONBUILD trigger"},
		{"interval", "FROM a\nHEALTHCHECK --interval=1us CMD x\n", `Dockerfile:2: HEALTHCHECK --interval=1us CMD x: Interval "interval" cannot be less than 1ms`},
		{"too large", "FROM a\n#" + strings.Repeat("x", MaxSize), "Dockerfile:1: the file has 4194312 bytes, more than the 4194304 allowed"},
		{"long line", "FROM a\nRUN " + strings.Repeat("x", 70000), "dockerfile line greater than max allowed size of 65535"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("Dockerfile", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want %s", err, c.want)
			}
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("%T is not an *Error", err)
			}
		})
	}
}

// A long instruction is shortened in messages, at a rune.
func TestShorten(t *testing.T) {
	if got := Shorten("RUN  a\n\tb"); got != "RUN a b" {
		t.Errorf("got %q", got)
	}
	got := Shorten("RUN " + strings.Repeat("é", 5000))
	if n := len([]rune(got)); n != 100 || !strings.HasSuffix(got, "é…") {
		t.Errorf("%d runes: %q", n, got)
	}
}

// BuildKit's rules are applied, "# check=skip" is heard, also above one
// instruction, and a foreign syntax image is reported.
func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"none", "# syntax=docker/dockerfile:1.7\nFROM a AS b\nRUN x\n", nil},
		{"upstream", "# syntax=docker.io/docker/dockerfile-upstream:master@sha256:00\nFROM a\n", nil},
		{"syntax", "# syntax=example.com/my/frontend\nFROM a\n", []string{
			"Dockerfile:1: SyntaxIgnored: the syntax image example.com/my/frontend is not used: the built-in Dockerfile syntax is"}},
		{"stage names", "FROM a AS scratch\nFROM b AS X\nFROM c AS x\n", []string{
			"Dockerfile:2: StageNameCasing: Stage name 'X' should be lowercase",
			"Dockerfile:1: ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\"",
			"Dockerfile:3: DuplicateStageName: Duplicate stage name \"x\", stage names should be unique"}},
		{"casing", "FROM a\nRUN x\nrun y\n", []string{
			"Dockerfile:3: ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase)"}},
		{"lower casing", "from a\nrun x\nRun y\n", []string{
			"Dockerfile:3: ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (lowercase)"}},
		{"continuation", "FROM a\nRUN x \\\n\n  y\n", []string{"Dockerfile:4: NoEmptyContinuation: Empty continuation line"}},
		{"maintainer", "FROM a\nMAINTAINER me\n", []string{
			"Dockerfile:2: MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"}},
		{"skip", "# check=skip=MaintainerDeprecated\nFROM a\nMAINTAINER me\n", nil},
		{"skip one", "FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER me\nMAINTAINER you\n", []string{
			"Dockerfile:4: MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := mustParse(t, c.text)
			var got []string
			for _, w := range f.Warnings {
				got = append(got, w.String())
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
	if !mustParse(t, "# check=error=true\nFROM a\n").WarningsAreErrors() {
		t.Error("check=error=true is not heard")
	}
}

// What a build says of checks and syntax stands in place of what the file says.
func TestOptions(t *testing.T) {
	const text = "# syntax=docker/dockerfile:1\n# check=error=true\nFROM a\nMAINTAINER me\n"
	f, err := Options{Check: "skip=MaintainerDeprecated", Syntax: "example.com/other"}.Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if f.WarningsAreErrors() || len(f.Warnings) != 1 || f.Warnings[0].Rule != RuleSyntaxIgnored {
		t.Errorf("errors %v, warnings %v", f.WarningsAreErrors(), f.Warnings)
	}
	const want = `build argument BUILDKIT_DOCKERFILE_CHECK: invalid check option "color"`
	if _, err := (Options{Check: "color=red"}).Parse("Dockerfile", []byte(text)); err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
}

// A trigger is one instruction, never a FROM or another ONBUILD, and is
// located at the FROM.
func TestParseTrigger(t *testing.T) {
	f := mustParse(t, "\nFROM a\n")
	cmd, err := ParseTrigger("COPY . /app", f.Stages[0].Location)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Pos(cmd.Location()).String(); got != "Dockerfile:2" {
		t.Errorf("located at %s", got)
	}
	for _, bad := range []string{"", "FROM x", "ONBUILD RUN x", "RUN a\nRUN b", "NOPE", "COPY --bad=1 a b"} {
		if _, err := ParseTrigger(bad, f.Stages[0].Location); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("# syntax=docker/dockerfile:1\n# escape=`\nARG A=b\nFROM a AS b\nRUN <<EOF\nx\nEOF\nCOPY [\"a\",\"b\"]\n"))
	f.Add([]byte("FROM a\nHEALTHCHECK --interval=1s CMD [\"x\"]\nONBUILD RUN a \\\n # c\n b\nLABEL a=\"b c\" d\n"))
	f.Add([]byte("\uFEFF#!x\n# check=skip=all;error=true\nfrom $X\nADD --link a http://b/c /d/\nEXPOSE 1-2/udp\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := Parse("Dockerfile", content)
		if err != nil {
			if e, ok := errors.AsType[*Error](err); !ok || e.Pos.Line < 1 {
				t.Fatalf("%T without a position: %v", err, err)
			}
			return
		}
		if len(file.Stages) == 0 {
			t.Fatal("no stage and no error")
		}
	})
}
