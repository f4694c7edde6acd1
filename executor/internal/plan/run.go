package plan

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// run plans a RUN. Its words are not expanded, but for those of its mounts: the
// shell does that. mounts are what the mounts' from keys name.
func (st *stageState) run(c *instructions.RunCommand, mounts []*source) (effect, error) {
	if err := checkRunFlags(c); err != nil {
		return effect{}, err
	}
	args, script, err := inline(c)
	if err != nil {
		return effect{}, err
	}
	if c.PrependShell {
		args = st.withShell(args)
	}
	if len(args) == 0 {
		return effect{}, errors.New("RUN needs a command")
	}
	op := Run{Args: args, Env: st.env.list(), Proxy: slices.Clone(st.b.proxy), User: st.config.User, Dir: path.Join("/", st.config.WorkingDir), Hostname: st.b.opt.Args["BUILDKIT_SANDBOX_HOSTNAME"]}
	if op.Mounts, err = st.mounts(c, mounts); err != nil {
		return effect{}, err
	}
	if i := slices.IndexFunc(op.Mounts, func(m Mount) bool { return m.Type == MountSSH }); i >= 0 {
		if _, ok := st.env.Get("SSH_AUTH_SOCK"); !ok {
			op.Env = append(op.Env, "SSH_AUTH_SOCK="+op.Mounts[i].Target)
		}
	}
	if script != nil {
		op.Mounts = append(op.Mounts, *script)
	}
	if network := instructions.GetNetwork(c); network != instructions.NetworkDefault {
		op.Network = network
	}
	return effect{op: op, createdBy: "RUN " + strings.Join(append(st.argsInForce(), args...), " ") + " # buildkit"}, nil
}

// scriptDir is where BuildKit puts a heredoc that begins with "#!".
const scriptDir = "/dev/pipes"

// inline puts the heredocs of a RUN into its command, as BuildKit does: a
// command that is one heredoc and nothing else is that heredoc's text, or, with
// a "#!", a file that is run; any other is given to the shell with its
// heredocs.
func inline(c *instructions.RunCommand) (args []string, script *Mount, err error) {
	if len(c.Files) == 0 {
		return slices.Clone(c.CmdLine), nil, nil
	}
	if len(c.CmdLine) != 1 || !c.PrependShell {
		return nil, nil, errors.New("a heredoc needs the shell form")
	}
	line, doc := c.CmdLine[0], c.Files[0]
	if here := parser.MustParseHeredoc(line); here == nil {
		var b strings.Builder
		b.WriteString(line)
		for _, f := range c.Files {
			b.WriteString("\n" + f.Data + f.Name)
		}
		return []string{b.String()}, nil, nil
	}
	text := doc.Data
	if doc.Chomp {
		text = parser.ChompHeredocContent(text)
	}
	if !strings.HasPrefix(text, "#!") {
		return []string{text}, nil, nil
	}
	file := path.Join(scriptDir, doc.Name)
	return []string{file}, &Mount{Type: MountScript, Target: file, Text: text, ReadOnly: true, Mode: 0o755}, nil
}

// checkRunFlags refuses the flags that are not carried out.
func checkRunFlags(c *instructions.RunCommand) error {
	for _, flag := range c.FlagsUsed {
		switch {
		case flag == "network", flag == "mount":
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
