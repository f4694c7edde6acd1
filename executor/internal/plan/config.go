package plan

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"golang.org/x/sys/unix"
)

// errHeredoc refuses what an instruction holds inline.
var errHeredoc = errors.New("heredocs are not supported yet")

func (st *stageState) setEnv(c *instructions.EnvCommand) (effect, error) {
	pairs, err := st.pairs(c, c.Env)
	if err != nil {
		return effect{}, err
	}
	msg := "ENV"
	for _, kv := range pairs {
		st.lintSecret(c, "ENV", kv.Key)
		st.config.Env = setEnv(st.config.Env, kv.Key, kv.Value)
		st.env.set(kv.Key, kv.Value)
		msg += " " + kv.String()
	}
	return effect{createdBy: msg}, nil
}

func (st *stageState) setLabels(c *instructions.LabelCommand) (effect, error) {
	pairs, err := st.pairs(c, c.Labels)
	if err != nil {
		return effect{}, err
	}
	if st.config.Labels == nil {
		st.config.Labels = map[string]string{}
	}
	msg := "LABEL"
	for _, kv := range pairs {
		st.config.Labels[kv.Key] = kv.Value
		msg += " " + kv.String()
	}
	return effect{createdBy: msg}, nil
}

// pairs expands names and values, all in the environment before the instruction.
func (st *stageState) pairs(c instructions.Command, in instructions.KeyValuePairs) (instructions.KeyValuePairs, error) {
	out := slices.Clone(in)
	for i, kv := range in {
		var err error
		if out[i].Key, err = st.expand(c, kv.Key); err != nil {
			return nil, err
		}
		if out[i].Value, err = st.expand(c, kv.Value); err != nil {
			return nil, err
		}
		if kv.NoDelim {
			rule := &linter.RuleLegacyKeyValueFormat
			st.lint.Run(rule, c.Location(), rule.Format(c.Name()))
		}
	}
	return out, nil
}

func (st *stageState) setAuthor(c *instructions.MaintainerCommand) (effect, error) {
	st.author = c.Maintainer
	return effect{createdBy: "MAINTAINER " + c.Maintainer}, nil
}

func (st *stageState) onbuild(c *instructions.OnbuildCommand) (effect, error) {
	st.config.OnBuild = append(st.config.OnBuild, c.Expression)
	return effect{}, nil
}

func (st *stageState) setCmd(c *instructions.CmdCommand) (effect, error) {
	st.lintOnce(c, &st.cmd)
	args, err := st.commandLine(c, c.ShellDependantCmdLine)
	if err != nil {
		return effect{}, err
	}
	st.config.Cmd, st.config.ArgsEscaped = args, true
	return effect{createdBy: fmt.Sprintf("CMD %q", args)}, nil
}

// setEntrypoint sets the entry point. A CMD that another stage or image set
// goes with its own entry point, so it is dropped.
func (st *stageState) setEntrypoint(c *instructions.EntrypointCommand) (effect, error) {
	st.lintOnce(c, &st.entrypoint)
	args, err := st.commandLine(c, c.ShellDependantCmdLine)
	if err != nil {
		return effect{}, err
	}
	st.config.Entrypoint = args
	if st.cmd == nil {
		st.config.Cmd = nil
	}
	return effect{createdBy: fmt.Sprintf("ENTRYPOINT %q", args)}, nil
}

// commandLine is what CMD or ENTRYPOINT says, with the shell in front of the
// shell form.
func (st *stageState) commandLine(c instructions.Command, line instructions.ShellDependantCmdLine) ([]string, error) {
	if len(line.Files) > 0 {
		return nil, errHeredoc
	}
	if !line.PrependShell {
		return slices.Clone(line.CmdLine), nil
	}
	if len(st.config.Shell) == 0 {
		rule := &linter.RuleJSONArgsRecommended
		st.lint.Run(rule, c.Location(), rule.Format(c.Name()))
	}
	return st.withShell(line.CmdLine), nil
}

// withShell is the argument vector of a shell form.
func (st *stageState) withShell(words []string) []string {
	shell := slices.Clone(st.config.Shell)
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(shell, strings.Join(words, " "))
}

func (st *stageState) setHealthcheck(c *instructions.HealthCheckCommand) (effect, error) {
	st.lintOnce(c, &st.healthcheck)
	h := *c.Health
	st.config.Healthcheck = &v1.HealthConfig{
		Test: slices.Clone(h.Test), Interval: h.Interval, Timeout: h.Timeout,
		StartPeriod: h.StartPeriod, Retries: h.Retries,
	}
	st.interval = h.StartInterval
	return effect{createdBy: fmt.Sprintf("HEALTHCHECK %+v", h)}, nil
}

func (st *stageState) setShell(c *instructions.ShellCommand) (effect, error) {
	st.config.Shell = slices.Clone(c.Shell)
	return effect{createdBy: fmt.Sprintf("SHELL %v", c.Shell)}, nil
}

func (st *stageState) setUser(c *instructions.UserCommand) (effect, error) {
	user, err := st.expand(c, c.User)
	if err != nil {
		return effect{}, err
	}
	st.config.User = user
	return effect{createdBy: "USER " + user}, nil
}

func (st *stageState) addVolumes(c *instructions.VolumeCommand) (effect, error) {
	volumes, err := st.expandAll(c, c.Volumes)
	if err != nil {
		return effect{}, err
	}
	if st.config.Volumes == nil {
		st.config.Volumes = map[string]struct{}{}
	}
	for _, v := range volumes {
		if v == "" {
			return effect{}, errors.New("VOLUME specified can not be an empty string")
		}
		st.config.Volumes[v] = struct{}{}
	}
	return effect{createdBy: fmt.Sprintf("VOLUME %v", volumes)}, nil
}

func (st *stageState) setStopSignal(c *instructions.StopSignalCommand) (effect, error) {
	sig, err := st.expand(c, c.Signal)
	if err != nil {
		return effect{}, err
	}
	if !knownSignal(sig) {
		return effect{}, fmt.Errorf("invalid signal %q: write a number or a name such as SIGTERM", sig)
	}
	st.config.StopSignal = sig
	return effect{createdBy: "STOPSIGNAL " + sig}, nil
}

// knownSignal reports whether s is a signal of Linux: its number, or its name
// with or without SIG, real-time signals as RTMIN+n and RTMAX-n.
func knownSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n != 0
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	switch name {
	case "CLD", "IOT", "POLL", "UNUSED", "RTMIN", "RTMAX":
		return true
	}
	for _, base := range []string{"RTMIN+", "RTMAX-"} {
		if offset, ok := strings.CutPrefix(name, base); ok {
			n, err := strconv.Atoi(offset)
			return err == nil && n >= 1 && n <= 15 && offset == strconv.Itoa(n)
		}
	}
	return unix.SignalNum("SIG"+name) != 0
}
