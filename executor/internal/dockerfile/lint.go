package dockerfile

import (
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// lintStages applies the rules that look at the whole file.
func (f *File) lintStages(lint *linter.Linter) {
	seen := map[string]bool{}
	for _, s := range f.Stages {
		switch {
		case s.Name == "":
			continue
		case s.Name == "scratch", s.Name == "context":
			lint.Run(&linter.RuleReservedStageName, s.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		if seen[s.Name] {
			lint.Run(&linter.RuleDuplicateStageName, s.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		seen[s.Name] = true
	}
	f.lintCasing(lint)
}

// lintCasing reports instructions that are not in the case, upper or lower,
// that most of the file is in.
func (f *File) lintCasing(lint *linter.Linter) {
	lower := 0
	each(f.Stages, func(name string, _ []parser.Range) {
		switch name {
		case strings.ToLower(name):
			lower++
		case strings.ToUpper(name):
			lower--
		}
	})
	rule := &linter.RuleConsistentInstructionCasing
	each(f.Stages, func(name string, loc []parser.Range) {
		switch {
		case lower > 0 && name != strings.ToLower(name):
			lint.Run(rule, loc, rule.Format(name, "lowercase"))
		case lower <= 0 && name != strings.ToUpper(name):
			lint.Run(rule, loc, rule.Format(name, "uppercase"))
		}
	})
}

// each calls fn for every instruction's name as it is written.
func each(stages []instructions.Stage, fn func(name string, loc []parser.Range)) {
	for _, s := range stages {
		fn(s.OrigCmd, s.Location)
		for _, c := range s.Commands {
			fn(c.Name(), c.Location())
		}
	}
}
