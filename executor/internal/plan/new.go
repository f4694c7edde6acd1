package plan

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
)

// Options are what a plan depends on besides the Dockerfile.
type Options struct {
	Target        string             // name or number of a stage; "" is the last
	Args          map[string]string  // build arguments
	Platform      v1.Platform        // to build for; zero is BuildPlatform, and then the image says what its base says
	BuildPlatform v1.Platform        // of this machine; zero is linux and the architecture of this program
	Labels        map[string]string  // added to the final stage
	Ignore        *dockerfile.Ignore // to warn of copies that it empties; may be nil

	// Contexts are named contexts by name: a FROM or --from that names one
	// means it and not an image, and it stands for a stage of its name. A
	// name is one as images have, and may end in "::os/arch".
	Contexts map[string]NamedContext
	// AllStages plans the stages too that the target does not need.
	AllStages bool

	// Base looks up an image: Digest, Config and StartInterval of what it
	// returns are used. It is called once for each reference and platform,
	// several at a time. Without it only scratch can be built from.
	Base func(ref string, p v1.Platform) (Base, error)
}

// NamedContext is what a named context stands for.
type NamedContext struct {
	Image string // reference for Options.Base, or "scratch"; "" if it is files
}

// New decides what building f means. Nothing but opt.Base is asked, so equal
// arguments give equal plans. An error that the Dockerfile is at fault for is a
// [*dockerfile.Error].
func New(f *dockerfile.File, opt Options) (*Plan, error) {
	b, err := newBuilder(f, opt)
	if err != nil {
		return nil, err
	}
	if err := b.declareArgs(); err != nil {
		return nil, err
	}
	if err := b.declareStages(); err != nil {
		return nil, err
	}
	target, err := b.target()
	if err != nil {
		return nil, err
	}
	if err := b.checkSources(); err != nil {
		return nil, err
	}
	needed, err := b.resolve(target)
	if err != nil {
		return nil, err
	}
	p := &Plan{Epoch: b.epoch}
	for i, s := range needed {
		s.planned = i
		out, err := b.planStage(s)
		if err != nil {
			return nil, err
		}
		p.Stages = append(p.Stages, out)
	}
	b.label(p.Final())
	p.Platform = imagePlatform(target.root(), b.platform, b.asked)
	p.Warnings, p.Unused = b.sortedWarnings(), b.unusedArgs()
	if err := b.lintError(p.Warnings); err != nil {
		return nil, err
	}
	return p, nil
}

// builder is the state of one New.
type builder struct {
	file     *dockerfile.File
	opt      Options
	platform v1.Platform // to build for
	build    v1.Platform // of this machine
	asked    bool        // whether platform was asked for
	lex      *shell.Lex
	lint     *linter.Linter
	warnings []dockerfile.Warning
	args     *env // global ARGs and the platform's
	proxy    []string
	epoch    *time.Time
	stages   []*stage
	byName   map[string]*stage // the last of each name
	images   map[imageKey]*image
	contexts map[string]NamedContext // by normalized name
}

func newBuilder(f *dockerfile.File, opt Options) (*builder, error) {
	b := &builder{file: f, opt: opt, lex: shell.NewLex(f.Escape), byName: map[string]*stage{}, images: map[imageKey]*image{}}
	b.lint = f.Linter(func(w dockerfile.Warning) { b.warnings = append(b.warnings, w) })
	b.build = normalize(opt.BuildPlatform)
	if b.build.OS == "" {
		b.build = normalize(v1.Platform{OS: "linux", Architecture: runtime.GOARCH})
	}
	b.platform, b.asked = normalize(opt.Platform), opt.Platform.OS != ""
	if !b.asked {
		b.platform = b.build
	}
	if b.platform.OS != "linux" {
		return nil, fmt.Errorf("build for %s: %w", platformName(b.platform), errNotLinux)
	}
	if multi, err := strconv.ParseBool(cmp.Or(opt.Args["BUILDKIT_MULTI_PLATFORM"], "false")); err != nil || multi {
		return nil, errors.New("build argument BUILDKIT_MULTI_PLATFORM: what is built is an image for one platform and no index: leave it out")
	}
	var err error
	b.contexts, err = normalizeContexts(opt.Contexts)
	return b, err
}

// target finds the stage that is asked for.
func (b *builder) target() (*stage, error) {
	name := b.opt.Target
	if name == "" {
		return b.stages[len(b.stages)-1], nil
	}
	if s, ok := b.byName[strings.ToLower(name)]; ok {
		return s, nil
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(b.stages) {
		return b.stages[n], nil
	}
	names := b.stageNames()
	err := fmt.Errorf("%s has no stage %q to build", b.file.Name, name)
	similar, wrapped := suggest.WrapErrorMaybe(err, name, names, false)
	switch {
	case similar:
		return nil, wrapped
	case len(names) == 0:
		return nil, fmt.Errorf("%w: none of its %d stages has a name, their numbers are 0 to %d", err, len(b.stages), len(b.stages)-1)
	}
	return nil, fmt.Errorf("%w: those with names are %s", err, strings.Join(names, ", "))
}

// declareArgs computes the ARGs before the first FROM and those that tell of
// the platform.
func (b *builder) declareArgs() error {
	target := cmp.Or(b.opt.Target, b.file.Stages[len(b.file.Stages)-1].Name, "default")
	b.args = newEnv()
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", platformName(b.build)}, {"BUILDOS", b.build.OS}, {"BUILDOSVERSION", b.build.OSVersion},
		{"BUILDARCH", b.build.Architecture}, {"BUILDVARIANT", b.build.Variant},
		{"TARGETPLATFORM", platformName(b.platform)}, {"TARGETOS", b.platform.OS}, {"TARGETOSVERSION", b.platform.OSVersion},
		{"TARGETARCH", b.platform.Architecture}, {"TARGETVARIANT", b.platform.Variant}, {"TARGETSTAGE", target},
	} {
		value := kv[1]
		if v, ok := b.opt.Args[kv[0]]; ok {
			value = v
		}
		b.args.set(kv[0], value)
	}
	b.lintBases(b.args.clone())
	if err := b.setArgs(b.args, b.opt.Args); err != nil {
		return err
	}
	b.proxy = proxies(b.opt.Args)
	return b.readEpoch()
}

// setArgs adds the global ARGs to e, given the build arguments.
func (b *builder) setArgs(e *env, given map[string]string) error {
	for _, cmd := range b.file.Args {
		for _, kv := range cmd.Args {
			value, ok := given[kv.Key]
			if !ok && kv.Value != nil {
				res, err := b.expand(*kv.Value, e)
				if err != nil {
					return b.fault(&cmd, err)
				}
				value, ok = res.Result, true
			}
			if ok {
				e.set(kv.Key, value)
			}
		}
	}
	return nil
}

// readEpoch reads SOURCE_DATE_EPOCH.
func (b *builder) readEpoch() error {
	const name = "SOURCE_DATE_EPOCH"
	value, ok := b.opt.Args[name]
	if !ok {
		value, _ = b.args.Get(name)
	}
	if value == "" {
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return fmt.Errorf("%s is %q: it must be a number of seconds since 1970", name, value)
	}
	t := time.Unix(n, 0).UTC()
	b.epoch = &t
	return nil
}

// proxies returns the proxy build arguments as the environment of a RUN, in
// both spellings. The lower case name wins where both are given.
func proxies(args map[string]string) []string {
	var out []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"} {
		var keys []string
		for k := range args {
			if strings.EqualFold(k, name) {
				keys = append(keys, k)
			}
		}
		if len(keys) == 0 {
			continue
		}
		if v := args[slices.Max(keys)]; v != "" {
			out = append(out, name+"="+v, strings.ToLower(name)+"="+v)
		}
	}
	return out
}

// label adds Options.Labels to the final stage.
func (b *builder) label(s *Stage) {
	if len(b.opt.Labels) == 0 {
		return
	}
	state := &s.Start
	if n := len(s.Steps); n > 0 {
		state = &s.Steps[n-1].State
	}
	c := state.Config.DeepCopy()
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for k, v := range b.opt.Labels {
		c.Labels[k] = v
	}
	state.Config = *c
}

func (b *builder) sortedWarnings() []dockerfile.Warning {
	all := append(slices.Clone(b.file.Warnings), b.warnings...)
	slices.SortStableFunc(all, func(x, y dockerfile.Warning) int {
		return cmp.Or(cmp.Compare(x.Pos.Line, y.Pos.Line), cmp.Compare(x.Rule, y.Rule), cmp.Compare(x.Message, y.Message))
	})
	return slices.CompactFunc(all, func(x, y dockerfile.Warning) bool { return x == y })
}

// LintError is what "# check=error=true" makes of warnings. It prints each.
type LintError struct {
	Warnings []dockerfile.Warning // all there are, in file order
	err      error
}

// Error implements error.
func (e *LintError) Error() string { return e.err.Error() }

// Unwrap returns a *dockerfile.Error for each warning that counts.
func (e *LintError) Unwrap() error { return e.err }

func (b *builder) lintError(all []dockerfile.Warning) error {
	if !b.file.WarningsAreErrors() {
		return nil
	}
	var errs []error
	for _, w := range all {
		if w.Rule != dockerfile.RuleSyntaxIgnored {
			errs = append(errs, &dockerfile.Error{Pos: w.Pos, Err: fmt.Errorf("%s: %s (warnings are errors by \"# check=error=true\")", w.Rule, w.Message)})
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return &LintError{all, errors.Join(errs...)}
}

// fault says which instruction an error is about.
func (b *builder) fault(cmd instructions.Command, err error) error {
	return &dockerfile.Error{Pos: b.file.Pos(cmd.Location()), Text: text(cmd), Err: err}
}

// text is an instruction as written.
func text(cmd instructions.Command) string {
	if s, ok := cmd.(fmt.Stringer); ok {
		return s.String()
	}
	return strings.ToUpper(cmd.Name())
}
