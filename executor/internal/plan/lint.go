package plan

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
)

// The rules of BuildKit's linter that need to know what words expand to.

// lintBases reports FROMs that name no image when no build argument is given.
func (b *builder) lintBases(defaults *env) {
	if b.setArgs(defaults, nil) != nil {
		return // the error is found again with the real arguments, if it is one
	}
	for _, s := range b.file.Stages {
		res, err := b.expand(s.BaseName, defaults)
		if err != nil {
			return
		}
		if _, err := reference.ParseNormalizedNamed(res.Result); err != nil {
			rule := &linter.RuleInvalidDefaultArgInFrom
			b.lint.Run(rule, s.Location, rule.Format(s.BaseName))
		}
	}
}

// lintFrom reports variables of a FROM that no ARG before the first FROM
// declares.
func (b *builder) lintFrom(lint *linter.Linter, s instructions.Stage, res shell.ProcessWordResult) {
	known := map[string]bool{}
	for _, k := range b.args.Keys() {
		known[k] = true
	}
	for _, c := range b.file.Args {
		for _, a := range c.Args {
			known[a.Key] = true
		}
	}
	names := slices.Sorted(maps.Keys(known))
	for _, name := range slices.Sorted(maps.Keys(res.Unmatched)) {
		if known[name] {
			continue
		}
		match, _ := suggest.Search(name, names, true)
		rule := &linter.RuleUndefinedArgInFrom
		lint.Run(rule, s.Location, rule.Format(name, match))
	}
}

// fromPlatform is the value of FROM --platform.
func (b *builder) fromPlatform(lint *linter.Linter, s instructions.Stage) (v1.Platform, error) {
	res, err := b.expand(s.Platform, b.args)
	if err != nil {
		return v1.Platform{}, err
	}
	b.lintFrom(lint, s, res)
	if _, ok := res.Matched["TARGETPLATFORM"]; ok && len(res.Matched) == 1 && len(res.Unmatched) == 0 {
		if v, _ := b.args.Get("TARGETPLATFORM"); v == res.Result {
			rule := &linter.RuleRedundantTargetPlatform
			lint.Run(rule, s.Location, rule.Format(s.Platform))
		}
	}
	p, err := ParsePlatform(res.Result)
	if err != nil {
		return v1.Platform{}, err
	}
	if len(res.Matched)+len(res.Unmatched) == 0 && !strings.Contains(s.Name, p.OS) && !strings.Contains(s.Name, p.Architecture) {
		rule := &linter.RuleFromPlatformFlagConstDisallowed
		lint.Run(rule, s.Location, rule.Format(res.Result))
	}
	return p, nil
}

// lintBasePlatform reports an image that is not for the platform asked for.
func (b *builder) lintBasePlatform(s *stage) {
	if s.image == nil {
		return
	}
	c := s.image.base.Config
	if c.OS == s.platform.OS && c.Architecture == s.platform.Architecture {
		return
	}
	actual := normalize(v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion})
	rule := &linter.RuleInvalidBaseImagePlatform
	b.lint.Run(rule, s.def.Location, rule.Format(s.ref, platformName(s.platform), platformName(actual)))
}

// lintUndefined reports variables that are not set at this point of the stage.
func (st *stageState) lintUndefined(c instructions.Command, unmatched map[string]struct{}) {
	for _, name := range slices.Sorted(maps.Keys(unmatched)) {
		declared := slices.ContainsFunc(st.args, func(a buildArg) bool { return a.key == name })
		if declared || sbomArg(name) {
			continue
		}
		match, _ := suggest.Search(name, st.env.Keys(), true)
		rule := &linter.RuleUndefinedVar
		st.lint.Run(rule, c.Location(), rule.Format(name, match))
	}
}

// lintOnce reports an instruction of which only the last in a stage counts, and
// notes that it was seen.
func (st *stageState) lintOnce(c instructions.Command, seen *[]parser.Range) {
	if *seen != nil {
		rule := &linter.RuleMultipleInstructionsDisallowed
		st.lint.Run(rule, *seen, rule.Format(c.Name()))
	}
	if *seen = c.Location(); *seen == nil {
		*seen = []parser.Range{}
	}
}

// lintWorkdir reports a relative WORKDIR that depends on the base image.
func (st *stageState) lintWorkdir(c *instructions.WorkdirCommand, dir string) {
	if !st.workdirSet && !path.IsAbs(dir) {
		rule := &linter.RuleWorkdirRelativePath
		st.lint.Run(rule, c.Location(), rule.Format(dir))
	}
}

// lintSecret reports variables whose name says that they hold a secret: they
// stay in the image.
func (st *stageState) lintSecret(c instructions.Command, instruction, key string) {
	named := func(words string) bool {
		ok, err := regexp.MatchString(`(?i)(_|^)(`+words+`)(_|$)`, key)
		return err == nil && ok
	}
	if named("apikey|auth|credentials?|key|password|pword|passwd|secret|token") && !named("public|file|version") {
		rule := &linter.RuleSecretsUsedInArgOrEnv
		st.lint.Run(rule, c.Location(), rule.Format(instruction, key))
	}
}

// lintIgnored reports sources that the ignore file excludes. With "!" patterns
// it is not known before the context is read.
func (st *stageState) lintIgnored(c instructions.Command, verb string, paths []string) {
	ignore := st.b.opt.Ignore
	if ignore.Negates() {
		return
	}
	for _, p := range paths {
		if (p == "." && ignore.ExcludesAll()) || ignore.Excluded(p) {
			rule := &linter.RuleCopyIgnoredFile
			st.lint.Run(rule, c.Location(), rule.Format(verb, p))
		}
	}
}
