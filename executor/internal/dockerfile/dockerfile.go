// Package dockerfile reads Dockerfiles and ignore files. The grammar is
// BuildKit's own; what is added here is where each fault lies, a limit on size,
// and an ignore file that can be asked about one name after another cheaply.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// MaxSize is the largest Dockerfile or ignore file that is read, in bytes.
const MaxSize = 4 << 20

// File is a parsed Dockerfile. It is not changed after Parse; what points into
// BuildKit's types must be treated as read-only.
type File struct {
	Name     string                    // as in every Pos of the file
	Args     []instructions.ArgCommand // the ARGs before the first FROM
	Stages   []instructions.Stage      // at least one
	Escape   rune                      // '\\' or '`', from "# escape="
	Warnings []Warning                 // lint findings that need no planning, in file order

	check *linter.Config
}

// Options are what a build says of how its Dockerfile is read.
type Options struct {
	// Check is what BUILDKIT_DOCKERFILE_CHECK says; if not empty it stands in
	// place of the file's "# check=".
	Check string
	// Syntax is what BUILDKIT_SYNTAX says; if not empty it stands in place of
	// the file's "# syntax=".
	Syntax string
}

// Parse is [Options.Parse] without options.
func Parse(name string, content []byte) (*File, error) { return Options{}.Parse(name, content) }

// Parse reads a Dockerfile. name is used in messages only. Every error of the
// file is an [*Error] that says where the fault is.
func (o Options) Parse(name string, content []byte) (*File, error) {
	if len(content) > MaxSize {
		return nil, &Error{Pos: Pos{name, 1}, Err: fmt.Errorf("the file has %d bytes, more than the %d allowed", len(content), MaxSize)}
	}
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, &Error{Pos: Pos{name, 1}, Err: errors.New("the Dockerfile is empty")}
	}
	f := &File{Name: name}
	if err := f.readDirectives(content, o); err != nil {
		return nil, err
	}
	parsed, err := parser.Parse(bytes.NewReader(content))
	if err != nil {
		return nil, f.fault(err, content)
	}
	f.Escape = parsed.EscapeToken
	lint := f.Linter(func(w Warning) { f.Warnings = append(f.Warnings, w) })
	for _, w := range parsed.Warnings {
		if rule := &linter.RuleNoEmptyContinuation; w.URL == rule.URL && w.Location != nil {
			lint.Run(rule, []parser.Range{*w.Location}, rule.Format())
		}
	}
	if err := f.readInstructions(parsed.AST, lint); err != nil {
		return nil, err
	}
	f.lintStages(lint)
	return f, nil
}

// readDirectives reads "# check=" and "# syntax=", or what stands in their place.
func (f *File) readDirectives(content []byte, o Options) error {
	value, _, loc, _ := parser.ParseDirective("check", content)
	said := "# check=" + value
	if o.Check != "" {
		value, loc, said = o.Check, nil, ""
	}
	check, err := linter.ParseLintOptions(value)
	switch {
	case err != nil && said == "":
		return fmt.Errorf("build argument BUILDKIT_DOCKERFILE_CHECK: %w", err)
	case err != nil:
		return &Error{Pos: f.pos(loc), Text: said, Err: err}
	}
	f.check = check
	ref, _, loc, ok := parser.DetectSyntax(content)
	if o.Syntax != "" {
		ref, loc, ok = o.Syntax, nil, true
	}
	if ok && !ownSyntax(ref) {
		f.Warnings = append(f.Warnings, Warning{
			Pos:     f.pos(loc),
			Rule:    RuleSyntaxIgnored,
			Message: fmt.Sprintf("the syntax image %s is not used: the built-in Dockerfile syntax is", ref),
		})
	}
	return nil
}

// ownSyntax reports whether a syntax image is the language built in here.
func ownSyntax(ref string) bool {
	ref = strings.TrimPrefix(strings.TrimPrefix(ref, "docker-image://"), "docker.io/")
	ref, _, _ = strings.Cut(ref, "@")
	ref, _, _ = strings.Cut(ref, ":")
	return ref == "docker/dockerfile" || ref == "docker/dockerfile-upstream"
}

// readInstructions sorts the instructions into stages.
func (f *File) readInstructions(ast *parser.Node, lint *linter.Linter) error {
	for _, node := range ast.Children {
		fail := func(err error) error {
			return &Error{Pos: Pos{f.Name, node.StartLine}, Text: node.Original, Err: bare(err)}
		}
		v, err := instructions.ParseInstructionWithLinter(node, lint)
		if err != nil {
			return fail(err)
		}
		switch v := v.(type) {
		case *instructions.Stage:
			f.Stages = append(f.Stages, *v)
		case *instructions.ArgCommand:
			if len(f.Stages) == 0 {
				f.Args = append(f.Args, *v)
				continue
			}
			f.Stages[len(f.Stages)-1].AddCommand(v)
		case instructions.Command:
			if len(f.Stages) == 0 {
				return fail(errors.New("a FROM must come first"))
			}
			f.Stages[len(f.Stages)-1].AddCommand(v)
		default:
			return fail(fmt.Errorf("%T is not an instruction", v))
		}
	}
	if len(f.Stages) == 0 {
		return &Error{Pos: Pos{f.Name, 1}, Err: errors.New("the Dockerfile has no FROM")}
	}
	return nil
}

// ParseTrigger parses one ONBUILD trigger of a base image, such as
// "COPY . /app". The command's location is that of the FROM at from.
func ParseTrigger(trigger string, from []parser.Range) (instructions.Command, error) {
	if len(trigger) > MaxSize {
		return nil, fmt.Errorf("the ONBUILD trigger has %d bytes, more than the %d allowed", len(trigger), MaxSize)
	}
	parsed, err := parser.Parse(strings.NewReader(trigger))
	if err != nil {
		return nil, bare(err)
	}
	if n := len(parsed.AST.Children); n != 1 {
		return nil, fmt.Errorf("an ONBUILD trigger is one instruction, not %d", n)
	}
	node := parsed.AST.Children[0]
	if len(from) > 0 {
		node.StartLine, node.EndLine = from[0].Start.Line, from[len(from)-1].End.Line
	}
	cmd, err := instructions.ParseCommand(node)
	if err != nil {
		return nil, bare(err)
	}
	if _, ok := cmd.(*instructions.OnbuildCommand); ok {
		return nil, errors.New("an ONBUILD trigger cannot be an ONBUILD")
	}
	return cmd, nil
}

// Linter returns a linter configured by the file's "# check=" line that hands
// its findings to add.
func (f *File) Linter(add func(Warning)) *linter.Linter {
	config := *f.check
	config.Warn = func(rule, _, url, message string, loc []parser.Range) {
		add(Warning{Pos: f.pos(loc), Rule: rule, Message: message, URL: url})
	}
	return linter.New(&config)
}

// WarningsAreErrors reports whether the file says "# check=error=true".
func (f *File) WarningsAreErrors() bool { return f.check.ReturnAsError }

// Pos returns the position of an instruction that BuildKit located.
func (f *File) Pos(loc []parser.Range) Pos { return f.pos(loc) }

func (f *File) pos(loc []parser.Range) Pos {
	if len(loc) == 0 {
		return Pos{f.Name, 1}
	}
	return Pos{f.Name, max(loc[0].Start.Line, 1)}
}

// fault turns an error of BuildKit's parser into an Error.
func (f *File) fault(err error, content []byte) error {
	pos, last := Pos{f.Name, 1}, 1
	if located, ok := errors.AsType[*parser.LocationError](err); ok && len(located.Locations) > 0 {
		pos = f.pos(located.Locations[0])
		for _, r := range located.Locations[0] {
			last = max(last, r.End.Line)
		}
	}
	var text strings.Builder
	line := 0
	for l := range bytes.Lines(content) {
		if line++; line >= pos.Line && line <= max(last, pos.Line) {
			text.WriteString(strings.TrimRight(string(bytes.TrimSpace(l)), "\\`") + " ")
		}
	}
	return &Error{Pos: pos, Text: strings.TrimSpace(text.String()), Err: bare(err)}
}

// bare takes the location that BuildKit added off an error.
func bare(err error) error {
	if located, ok := errors.AsType[*parser.LocationError](err); ok {
		return located.Unwrap()
	}
	return err
}
