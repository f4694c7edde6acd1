package plan

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// sbomArg reports whether an argument configures BuildKit's own scanning: a RUN does not see it.
func sbomArg(key string) bool {
	return key == "BUILDKIT_SBOM_SCAN_CONTEXT" || key == "BUILDKIT_SBOM_SCAN_STAGE"
}

// unusedArgs lists the build arguments that were given and change nothing: no ARG of
// any stage or ONBUILD declares them, and nothing else is made of them.
func (b *builder) unusedArgs() []string {
	used := map[string]bool{"SOURCE_DATE_EPOCH": true}
	see := func(c *instructions.ArgCommand) {
		for _, a := range c.Args {
			used[a.Key] = true
		}
	}
	for _, k := range b.args.Keys() {
		used[k] = true // of the platform
	}
	for i := range b.file.Args {
		see(&b.file.Args[i])
	}
	for _, s := range b.stages {
		for _, c := range s.cmds {
			if arg, ok := c.Command.(*instructions.ArgCommand); ok {
				see(arg)
			}
		}
	}
	var out []string
	for name := range b.opt.Args {
		if !used[name] && !strings.HasPrefix(name, "BUILDKIT_") && proxies(map[string]string{name: "x"}) == nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// arg declares build arguments. The value is the one given for the build, else
// the default, else that of the global ARG of the same name.
func (st *stageState) arg(c *instructions.ArgCommand) (effect, error) {
	var msgs []string
	for _, a := range c.Args {
		st.lintSecret(c, "ARG", a.Key)
		value, ok := st.b.opt.Args[a.Key]
		switch {
		case ok:
		case a.Value != nil:
			v, err := st.expand(c, *a.Value)
			if err != nil {
				return effect{}, err
			}
			value, ok = v, true
		default:
			value, ok = st.b.args.Get(a.Key)
		}
		msg := a.Key
		if ok {
			msg += "=" + value
			if !sbomArg(a.Key) {
				st.env.set(a.Key, value)
			}
		}
		st.args = append(st.args, buildArg{a.Key, value})
		msgs = append(msgs, msg)
	}
	return effect{createdBy: "ARG " + strings.Join(msgs, " ")}, nil
}
