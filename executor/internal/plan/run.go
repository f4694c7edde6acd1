package plan

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// run plans a RUN. Its words are not expanded: the shell does that.
func (st *stageState) run(c *instructions.RunCommand) (effect, error) {
	if err := checkRunFlags(c); err != nil {
		return effect{}, err
	}
	if len(c.Files) > 0 {
		return effect{}, errHeredoc
	}
	args := slices.Clone(c.CmdLine)
	if c.PrependShell {
		args = st.withShell(args)
	}
	if len(args) == 0 {
		return effect{}, errors.New("RUN needs a command")
	}
	op := Run{Args: args, Env: st.env.list(), Proxy: slices.Clone(st.b.proxy), User: st.config.User, Dir: path.Join("/", st.config.WorkingDir)}
	return effect{op: op, createdBy: "RUN " + strings.Join(append(st.argsInForce(), args...), " ") + " # buildkit"}, nil
}

// checkRunFlags refuses the flags that are not carried out.
func checkRunFlags(c *instructions.RunCommand) error {
	for _, flag := range c.FlagsUsed {
		switch {
		case flag == "network" && instructions.GetNetwork(c) == instructions.NetworkDefault:
		case flag == "network":
			return fmt.Errorf("--network=%s is not supported yet", instructions.GetNetwork(c))
		case flag == "security" && instructions.GetSecurity(c) == instructions.SecuritySandbox:
		default:
			return fmt.Errorf("--%s is not supported yet", flag)
		}
	}
	return nil
}

// argsInForce is how the history names the build arguments that a RUN sees:
// "|2 A=1 B=2".
func (st *stageState) argsInForce() []string {
	var out []string
	at := map[string]int{}
	for _, a := range st.args {
		value, ok := st.env.Get(a.key)
		if !ok {
			value = a.value
		}
		i, ok := at[a.key]
		if !ok {
			i = len(out)
			at[a.key] = i
			out = append(out, "")
		}
		out[i] = a.key + "=" + value
	}
	if len(out) == 0 {
		return nil
	}
	return append([]string{fmt.Sprintf("|%d", len(out))}, out...)
}

// workdir plans a WORKDIR. The root needs no making.
func (st *stageState) workdir(c *instructions.WorkdirCommand) (effect, error) {
	dir, err := st.expand(c, c.Path)
	if err != nil {
		return effect{}, err
	}
	st.lintWorkdir(c, dir)
	st.workdirSet = true
	st.config.WorkingDir = joinDir(st.config.WorkingDir, dir)
	e := effect{createdBy: "WORKDIR " + st.config.WorkingDir}
	if clean := path.Clean(st.config.WorkingDir); clean != "/" {
		e.op = Workdir{Path: clean, User: st.config.User}
	}
	return e, nil
}
