package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/executor/view"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// completion prints a script that asks this program what may come next, so that it
// is never older than the program.
func (a *app) completion() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	cmd := &cobra.Command{
		Use: "completion SHELL", Short: "print what makes bash, zsh or fish complete command lines of kiln",
		Long: "Print a script for a shell: commands, flags and the ids of builds are completed then.\n\n" +
			"  bash   source <(kiln completion bash)      needs the package bash-completion\n" +
			"  zsh    kiln completion zsh >\"${fpath[1]}/_kiln\"\n" +
			"  fish   kiln completion fish >~/.config/fish/completions/kiln.fish",
		ValidArgs: shells, Args: oneArg(strings.Join(shells, ", ")),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.Stdout)
			case "fish":
				return root.GenFishCompletion(a.Stdout, true)
			}
			return &usageError{fmt.Errorf("shell %q is not known: %s are", args[0], strings.Join(shells, ", "))}
		},
	}
	return cmd
}

// completeTime is how long a completion may ask the stack.
const completeTime = 2 * time.Second

// completeBuilds completes the ids of the newest builds.
func (a *app) completeBuilds(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), completeTime, errors.New("the stack does not answer in time"))
		defer cancel()
		c, err := a.client(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		l, err := c.Builds(ctx, 50, "", nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var found []string
		for _, b := range l.Builds {
			if !strings.HasPrefix(b.ID, begun) {
				continue
			}
			what := b.State
			if b.Result != nil {
				what = string(b.Result.Outcome)
			}
			about := buildlog.Clean(what + " " + buildlog.Source(b.Request.Change))
			found = append(found, cobra.CompletionWithDesc(b.ID[:max(10, len(begun))], about))
		}
		return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// flagValues are the values of flags that take one of a few.
func flagValues() map[string][]string {
	return map[string][]string{
		"output": {"text", "json"}, "progress": view.Modes(), "isolation": {"overlay", "inplace"}, "log-level": {"debug", "info", "warn", "error"},
		"state": {"queued", "running", "finishing", "pending", "finished"}, "outcome": {"success", "failed", "cancelled", "error"},
	}
}

// completeFlags completes the values of flags that take one of a few.
func completeFlags(root *cobra.Command) error {
	for _, cmd := range append(root.Commands(), root) {
		for name, list := range flagValues() {
			if cmd.Flags().Lookup(name) == nil && cmd.PersistentFlags().Lookup(name) == nil {
				continue
			}
			if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp)); err != nil {
				return fmt.Errorf("complete --%s of %s: %w", name, cmd.Name(), err)
			}
		}
	}
	return nil
}
