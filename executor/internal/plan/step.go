package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// historyComment is how BuildKit marks the history entries that it writes.
const historyComment = "buildkit.dockerfile.v0"

// defaultPath is PATH where the base image sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// stageState is what is known at one point of a stage.
type stageState struct {
	b        *builder
	s        *stage
	config   v1.Config
	interval time.Duration
	author   string
	env      *env       // the image's environment and the build arguments in force
	args     []buildArg // declared so far, those of the stages it is built on first

	workdirSet  bool           // in this Dockerfile
	cmd         []parser.Range // where CMD was last set in this stage; nil if not
	entrypoint  []parser.Range // likewise
	healthcheck []parser.Range // likewise
	lint        *linter.Linter // of the current command
}

// buildArg is a declared build argument.
type buildArg struct {
	key   string
	value string // "" too if it has none
}

// newStageState returns the state right after FROM.
func newStageState(b *builder, s *stage) *stageState {
	st := &stageState{b: b, s: s, env: newEnv(), lint: b.lint}
	switch {
	case s.base != nil:
		from := s.base.done
		st.config, st.interval, st.author = *from.config.DeepCopy(), from.interval, from.author
		st.env, st.args, st.workdirSet = from.env.clone(), slices.Clone(from.args), from.workdirSet
	case s.image != nil:
		st.config, st.interval = *s.image.base.Config.Config.DeepCopy(), s.image.base.StartInterval
		st.author = s.image.base.Config.Author
	default:
		st.config.WorkingDir = "/"
	}
	// The triggers are among the stage's own commands by now.
	st.config.OnBuild = nil
	for _, kv := range st.config.Env {
		k, v, _ := strings.Cut(kv, "=")
		st.env.set(k, v)
	}
	if _, ok := envOf(st.config.Env, "PATH"); !ok {
		st.config.Env = append(st.config.Env, "PATH="+defaultPath)
		st.env.set("PATH", defaultPath)
	}
	if dir := st.config.WorkingDir; dir != "" {
		st.config.WorkingDir = joinDir(dir, dir)
	}
	return st
}

func envOf(list []string, key string) (string, bool) {
	for _, kv := range list {
		if k, v, _ := strings.Cut(kv, "="); k == key {
			return v, true
		}
	}
	return "", false
}

// state returns a copy of the metadata.
func (st *stageState) state() State {
	return State{Config: *st.config.DeepCopy(), StartInterval: st.interval, Author: st.author}
}

// effect is what one instruction comes to, besides its change of the config.
type effect struct {
	op        Op
	createdBy string
}

// step plans one instruction.
func (st *stageState) step(c command) (Step, error) {
	st.lint = st.b.lint.WithMergedConfigFromComments(c.Comments())
	e, err := st.effect(c)
	if err != nil {
		return Step{}, err
	}
	step := Step{
		Pos: st.b.file.Pos(c.Location()), Text: text(c.Command), CreatedBy: e.createdBy, Comment: historyComment,
		Op: e.op, State: st.state(),
	}
	if c.triggered {
		step.Text = "ONBUILD " + step.Text
	}
	if e.createdBy == "" {
		step.Comment = ""
	}
	return step, nil
}

func (st *stageState) effect(cmd command) (effect, error) {
	switch c := cmd.Command.(type) {
	case *instructions.AddCommand:
		return st.add(c)
	case *instructions.ArgCommand:
		return st.arg(c)
	case *instructions.CmdCommand:
		return st.setCmd(c)
	case *instructions.CopyCommand:
		return st.copy(c, cmd.from)
	case *instructions.EntrypointCommand:
		return st.setEntrypoint(c)
	case *instructions.EnvCommand:
		return st.setEnv(c)
	case *instructions.ExposeCommand:
		return st.expose(c)
	case *instructions.HealthCheckCommand:
		return st.setHealthcheck(c)
	case *instructions.LabelCommand:
		return st.setLabels(c)
	case *instructions.MaintainerCommand:
		return st.setAuthor(c)
	case *instructions.OnbuildCommand:
		return st.onbuild(c)
	case *instructions.RunCommand:
		return st.run(c, cmd.mounts)
	case *instructions.ShellCommand:
		return st.setShell(c)
	case *instructions.StopSignalCommand:
		return st.setStopSignal(c)
	case *instructions.UserCommand:
		return st.setUser(c)
	case *instructions.VolumeCommand:
		return st.addVolumes(c)
	case *instructions.WorkdirCommand:
		return st.workdir(c)
	}
	return effect{}, fmt.Errorf("%s is not supported yet", strings.ToUpper(cmd.Name()))
}

// expand expands a word in the environment of this point of the stage.
func (st *stageState) expand(c instructions.Command, word string) (string, error) {
	res, err := st.b.expand(word, st.env)
	st.lintUndefined(c, res.Unmatched)
	return res.Result, err
}

// expandAll expands each word.
func (st *stageState) expandAll(c instructions.Command, words []string) ([]string, error) {
	out := make([]string, len(words))
	for i, w := range words {
		var err error
		if out[i], err = st.expand(c, w); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// joinDir is the working directory after "WORKDIR dir" in current. An absolute
// one is kept as written, as BuildKit does.
func joinDir(current, dir string) string {
	if dir == "" {
		dir = current
	}
	if path.IsAbs(dir) {
		return dir
	}
	return path.Join("/", current, dir)
}
