package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kilnhook/kiln/executor/view"
)

// completion prints what makes a shell complete command lines of the executor. It is
// made of the flags themselves.
func completion(p process) error {
	if len(p.args) != 3 {
		return errors.New("executor completion needs one argument: bash, zsh or fish")
	}
	var c config
	flags := newFlags(&c, io.Discard)
	write, ok := map[string]func(io.Writer, *pflag.FlagSet) error{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[p.args[2]]
	if !ok {
		return fmt.Errorf("shell %q is not known: bash, zsh and fish are", p.args[2])
	}
	return write(p.stdout, flags)
}

// subcommands are the words that may come first.
func subcommands() []string {
	return []string{"doctor", "push", "login", "version", "completion"}
}

// valuesOf are the values of flags that take one of a few.
func valuesOf(flag string) []string {
	return map[string][]string{
		"progress": view.Modes(), "isolation": {"auto", "overlay", "inplace"}, "log-format": {"text", "color", "json"}, "compression": {"gzip", "zstd"},
		"verbosity": {"panic", "fatal", "error", "warn", "info", "debug", "trace"}, "image-format": {"oci", "docker"}, "snapshot-mode": {"full", "redo", "time"},
	}[flag]
}

// each calls f with every flag that is shown, by name.
func each(flags *pflag.FlagSet, f func(flag *pflag.Flag)) {
	var all []*pflag.Flag
	flags.VisitAll(func(flag *pflag.Flag) {
		if !flag.Hidden {
			all = append(all, flag)
		}
	})
	slices.SortFunc(all, func(a, b *pflag.Flag) int { return strings.Compare(a.Name, b.Name) })
	for _, flag := range all {
		f(flag)
	}
}

func bashCompletion(w io.Writer, flags *pflag.FlagSet) error {
	var names []string
	var cases strings.Builder
	each(flags, func(f *pflag.Flag) {
		names = append(names, "--"+f.Name)
		if values := valuesOf(f.Name); values != nil {
			fmt.Fprintf(&cases, "    --%s) words='%s' ;;\n", f.Name, strings.Join(values, " "))
		} else if f.Value.Type() != "bool" {
			fmt.Fprintf(&cases, "    --%s) COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n", f.Name)
		}
	})
	_, err := fmt.Fprintf(w, `_executor() {
  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} prefix= words
  if [[ $current == = ]]; then # bash may cut words at =
    current=
  elif [[ $before == = ]]; then
    before=${COMP_WORDS[COMP_CWORD-2]}
  elif [[ $current == --*=* ]]; then
    before=${current%%%%=*} prefix= current=${current#*=}
  fi
  case $before in
%s    *)
      words='%s'
      ((COMP_CWORD == 1)) && words+=' %s' ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _executor executor
`, cases.String(), strings.Join(names, " "), strings.Join(subcommands(), " "))
	return err
}

// usageLine is what a flag is for, without what a shell would understand.
func zshUsage(f *pflag.Flag) string {
	_, usage := pflag.UnquoteUsage(f)
	return strings.NewReplacer("'", "’", "[", "(", "]", ")", ":", " -", "\\", "").Replace(usage)
}

func zshCompletion(w io.Writer, flags *pflag.FlagSet) error {
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef executor\n_arguments \\\n  '1:command:(%s)' \\\n", strings.Join(subcommands(), " "))
	each(flags, func(f *pflag.Flag) {
		value := ":value:_files"
		if values := valuesOf(f.Name); values != nil {
			value = ":value:(" + strings.Join(values, " ") + ")"
		}
		if f.Value.Type() == "bool" {
			fmt.Fprintf(&b, "  '--%s[%s]' \\\n", f.Name, zshUsage(f))
			return
		}
		fmt.Fprintf(&b, "  '*--%s=[%s]%s' \\\n", f.Name, zshUsage(f), value)
	})
	b.WriteString("  && return 0\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func fishCompletion(w io.Writer, flags *pflag.FlagSet) error {
	var b strings.Builder
	fmt.Fprintf(&b, "complete -c executor -n __fish_use_subcommand -a '%s'\n", strings.Join(subcommands(), " "))
	each(flags, func(f *pflag.Flag) {
		fmt.Fprintf(&b, "complete -c executor -l %s", f.Name)
		if f.Shorthand != "" {
			fmt.Fprintf(&b, " -s %s", f.Shorthand)
		}
		if values := valuesOf(f.Name); values != nil {
			fmt.Fprintf(&b, " -x -a '%s'", strings.Join(values, " "))
		} else if f.Value.Type() != "bool" {
			b.WriteString(" -r")
		}
		_, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, " -d '%s'\n", strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(usage))
	})
	_, err := io.WriteString(w, b.String())
	return err
}
