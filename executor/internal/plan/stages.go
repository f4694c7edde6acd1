package plan

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
)

// scratch is the name of the empty base.
const scratch = "scratch"

// stage is a FROM on its way to becoming a Stage.
type stage struct {
	index    int
	def      instructions.Stage // read-only
	ref      string             // what FROM names, expanded
	base     *stage             // nil unless ref is a stage
	platform v1.Platform        // of the base image
	image    *image             // nil unless ref is an image; filled in by resolve
	files    string             // the named context of files that it is; "" unless it is one
	cmds     []command          // triggers of ONBUILD first
	replaced bool               // a context stands for it: nothing it says is done
	resolved bool               // the commands' sources are known and triggers added
	planned  int                // index into Plan.Stages
	done     *stageState        // once planned
}

// startFrom finds what a stage starts from: a context of its own name, an
// earlier stage, scratch, another context or an image.
func (b *builder) startFrom(s *stage) error {
	if name, nc, ok := b.namedContext(s.def.Name, s.platform); ok {
		s.replaced = true
		b.standOn(s, name, nc)
		return nil
	}
	if base, ok := b.byName[strings.ToLower(s.ref)]; ok {
		s.base, s.platform = base, base.platform
		return nil
	}
	if s.ref == scratch {
		s.platform = b.platform
		return nil
	}
	if _, err := reference.ParseNormalizedNamed(s.ref); err != nil {
		return fmt.Errorf("parse image name %q: %w", s.ref, err)
	}
	if name, nc, ok := b.namedContext(s.ref, s.platform); ok {
		b.standOn(s, name, nc)
		return nil
	}
	s.image = b.wantImage(s.ref, s.platform)
	return nil
}

// command is an instruction with what it refers to.
type command struct {
	instructions.Command
	from      *source   // of COPY --from; nil otherwise
	mounts    []*source // of each RUN --mount; nil for one without from
	triggered bool      // by ONBUILD
}

// String returns the instruction as written.
func (c command) String() string { return text(c.Command) }

// sources are what the command reads from besides the build context.
func (c command) sources() []*source {
	var out []*source
	for _, s := range append([]*source{c.from}, c.mounts...) {
		if s != nil {
			out = append(out, s)
		}
	}
	return out
}

// findSources resolves what a command of a stage that is needed reads from.
func (b *builder) findSources(s *stage, c *command) (err error) {
	if name := c.copiesFrom(); name != "" && c.from == nil {
		c.from, err = b.findSource(s, name)
		return err
	}
	if c.mounts != nil {
		return nil
	}
	names := c.mountsFrom()
	found := make([]*source, len(names))
	for i, name := range names {
		if name == "" {
			continue
		}
		if found[i], err = b.mountSource(s, name); err != nil {
			return err
		}
	}
	c.mounts = found
	return nil
}

// source is what a COPY --from or a RUN --mount=from= names. With none of its
// fields set it is scratch.
type source struct {
	stage   *stage
	context string // of files
	image   *image
}

// declareStages expands what each FROM says and links the stages that start
// from others.
func (b *builder) declareStages() error {
	for i, def := range b.file.Stages {
		s := &stage{index: i, def: def, platform: b.platform}
		fail := func(err error) error {
			return &dockerfile.Error{Pos: b.file.Pos(def.Location), Text: def.SourceCode, Err: err}
		}
		lint := b.lint.WithMergedConfigFromComments(def.Comments)
		res, err := b.expand(def.BaseName, b.args)
		if err != nil {
			return fail(err)
		}
		b.lintFrom(lint, def, res)
		if res.Result == "" {
			return fail(b.blankBase(def.BaseName, res))
		}
		s.ref = res.Result
		if def.Platform != "" {
			if s.platform, err = b.fromPlatform(lint, def); err != nil {
				return fail(err)
			}
		}
		if err := b.startFrom(s); err != nil {
			return fail(err)
		}
		if !s.replaced {
			for _, c := range def.Commands {
				s.cmds = append(s.cmds, command{Command: c})
			}
		}
		b.stages = append(b.stages, s)
		if def.Name != "" {
			b.byName[def.Name] = s
		}
	}
	return nil
}

// nearStage adds to the error of an image that could not be had the stage that was
// most likely meant.
func (b *builder) nearStage(ref string, err error) error {
	stage, ok := suggest.Search(ref, b.stageNames(), false)
	if !ok || len(ref) < 3 {
		return err
	}
	return fmt.Errorf("%w (no stage is named %s: did you mean %s?)", err, ref, stage)
}

// stageNames lists the stages that have names.
func (b *builder) stageNames() []string {
	var names []string
	for _, s := range b.stages {
		if s.def.Name != "" {
			names = append(names, s.def.Name)
		}
	}
	return names
}

// blankBase is the error of a FROM that expands to nothing.
func (b *builder) blankBase(name string, res shell.ProcessWordResult) error {
	var why []string
	for _, v := range slices.Sorted(maps.Keys(res.Unmatched)) {
		if b.declares(v) {
			why = append(why, fmt.Sprintf("ARG %s has no default, give --build-arg %s=…", v, v))
		} else {
			why = append(why, fmt.Sprintf("no ARG %s stands before the first FROM", v))
		}
	}
	text := fmt.Sprintf("base name (%s) should not be blank", name)
	if len(why) > 0 {
		text += ": " + strings.Join(why, "; ")
	}
	return errors.New(text)
}

// declares reports whether there is an ARG of the name before the first FROM.
func (b *builder) declares(name string) bool {
	return slices.ContainsFunc(b.file.Args, func(c instructions.ArgCommand) bool {
		return slices.ContainsFunc(c.Args, func(a instructions.KeyValuePairOptional) bool { return a.Key == name })
	})
}

// checkSources finds what no stage may say in a COPY --from, needed or not.
func (b *builder) checkSources() error {
	for _, s := range b.stages {
		for n := range s.cmds {
			if from := s.cmds[n].copiesFrom(); from != "" {
				if _, err := b.namedStage(s, from); err != nil {
					return b.fault(s.cmds[n], err)
				}
			}
			for _, from := range s.cmds[n].mountsFrom() {
				if b.byName[strings.ToLower(from)] == s {
					return b.fault(s.cmds[n], fmt.Errorf("a stage cannot mount from itself: from=%s", from))
				}
			}
		}
	}
	return nil
}

// copiesFrom is the value of COPY --from; "" for any other command.
func (c command) copiesFrom() string {
	if c, ok := c.Command.(*instructions.CopyCommand); ok {
		return c.From
	}
	return ""
}

// namedStage is the stage that a COPY --from in s names by name or number; nil
// if it is none.
func (b *builder) namedStage(s *stage, from string) (*stage, error) {
	if res, err := b.expand(from, newEnv()); err != nil {
		return nil, err
	} else if res.Result != from {
		return nil, errors.New("--from takes no variable: name a stage with \"FROM $VAR AS name\" and copy from that")
	}
	dep := b.byName[strings.ToLower(from)]
	if n, err := strconv.Atoi(from); err == nil {
		if n < 0 || n >= len(b.stages) {
			return nil, fmt.Errorf("there is no stage %d: the stages are 0 to %d", n, len(b.stages)-1)
		}
		dep = b.stages[n]
	}
	if dep == s {
		return nil, fmt.Errorf("a stage cannot copy from itself: --from=%s", from)
	}
	return dep, nil
}

// findSource resolves the value of COPY --from for a stage that is needed.
func (b *builder) findSource(s *stage, from string) (*source, error) {
	dep, err := b.namedStage(s, from)
	switch {
	case err != nil:
		return nil, err
	case dep != nil && dep.index > s.index:
		return nil, fmt.Errorf("cannot copy from stage %q: it is defined later, on line %d", from, b.file.Pos(dep.def.Location).Line)
	case dep != nil && dep.replaced && dep.files != "":
		return &source{context: dep.files}, nil
	case dep != nil:
		return &source{stage: dep}, nil
	case from == scratch:
		return &source{}, nil
	}
	if _, err := reference.ParseNormalizedNamed(from); err != nil {
		return nil, fmt.Errorf("--from=%s is neither a stage nor an image name: %w", from, err)
	}
	if name, nc, ok := b.namedContext(from, b.platform); ok {
		switch nc.Image {
		case "":
			return &source{context: name}, nil
		case scratch:
			return &source{}, nil
		}
		from = nc.Image
	}
	return &source{image: b.wantImage(from, b.platform)}, nil
}

// root is the config of the image that a stage is built on, through all the
// stages between; nil for scratch.
func (s *stage) root() *v1.ConfigFile {
	for s.base != nil {
		s = s.base
	}
	if s.image == nil {
		return nil
	}
	return s.image.base.Config
}

// planStage plans a stage whose dependencies are planned.
func (b *builder) planStage(s *stage) (Stage, error) {
	st := newStageState(b, s)
	out := Stage{
		Name: s.def.Name, Index: s.index, Platform: s.platform,
		Pos: b.file.Pos(s.def.Location), Text: s.def.SourceCode,
	}
	switch {
	case s.base != nil:
		n := s.base.planned
		out.Base = Base{Ref: s.ref, Stage: &n}
	case s.image != nil:
		out.Base = s.image.base
		out.Base.Ref, out.Base.Stage = s.ref, nil
	default:
		out.Base = Base{Ref: scratch}
	}
	b.lintBasePlatform(s)
	out.Start = st.state()
	if s.files != "" {
		out.Steps = append(out.Steps, st.load(out))
	}
	for _, c := range s.cmds {
		step, err := st.step(c)
		if err != nil {
			if _, ok := errors.AsType[*dockerfile.Error](err); ok {
				return Stage{}, err
			}
			return Stage{}, b.fault(c, err)
		}
		out.Steps = append(out.Steps, step)
	}
	s.done = st
	return out, nil
}
