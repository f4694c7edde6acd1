// Package cmd is the command line of kiln: it reads flags, talks to a stack or
// is one, and says what happened.
package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/infra/kiln/internal/client"
	"github.com/kilnhook/kiln/infra/kiln/internal/show"
	"github.com/kilnhook/kiln/infra/local/gitd"
)

// Exit statuses of kiln.
const (
	ExitOK     = 0
	ExitFailed = 1 // the build failed, or the command did
	ExitUsage  = 2 // the command line makes no sense
)

// Process is what a command gets from outside.
type Process struct {
	Args       []string // without the program's name
	Stdout     io.Writer
	Stderr     io.Writer
	Getenv     func(string) string
	Terminal   show.Terminal // at Stdout
	Now        func() time.Time
	Executable string // path of this program
	Plugin     bool   // it was called as a plugin of kubectl: it talks to a cluster
	Version    string
}

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// errQuiet ends a command with ExitFailed when all was said already.
var errQuiet = errors.New("the build did not succeed")

// app is one run of the program.
type app struct {
	Process
	server string // --server
	data   string // --data
	output string // --output
	asJSON bool   // --json
	kubeFlags
}

// Run runs the command and returns the exit status.
func Run(ctx context.Context, p Process) int {
	a := &app{Process: p}
	root := a.root() //nolint:contextcheck // cobra hands the context to each command
	if err := completeFlags(root); err != nil {
		fmt.Fprintf(p.Stderr, "kiln: %v\n", err)
		return ExitFailed
	}
	root.SetArgs(p.Args)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	err := root.ExecuteContext(ctx)
	var usage *usageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		fmt.Fprintf(p.Stderr, "kiln: %v\nkiln help tells how to use it.\n", err)
		return ExitUsage
	case errors.Is(err, errQuiet), errors.Is(err, errDiffers):
		return ExitFailed
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		fmt.Fprintln(p.Stderr, "kiln: interrupted")
		return ExitFailed
	}
	fmt.Fprintf(p.Stderr, "kiln: %v\n", err)
	return ExitFailed
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "kiln", Short: "build container images when code arrives",
		Long: "Kiln builds a container image when code arrives, and says so with an event.\n\n" +
			"kiln up starts everything on this machine. The other commands talk to it, and with --kube to the Kiln of a cluster.",
		SilenceUsage: true, SilenceErrors: true, Args: noSuchCommand, SuggestionsMinimumDistance: 2,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.asJSON {
				if cmd.Flags().Changed("output") && a.output != "json" {
					return &usageError{errors.New("--json and --output text exclude each other")}
				}
				a.output = "json"
			}
			if a.output != "text" && a.output != "json" {
				return &usageError{fmt.Errorf("--output is %q, and may be text or json", a.output)}
			}
			return a.checkKube(cmd)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", "", "address of the stack (KILN_SERVER; default: the one running on this machine)")
	flags.StringVar(&a.data, "data", a.Getenv("KILN_DATA"), "data directory of the stack (KILN_DATA; default: "+a.defaultData()+")")
	flags.Lookup("data").DefValue = "" // the usage says what it is
	flags.StringVarP(&a.output, "output", "o", "text", "text or json")
	a.defineKube(root)
	flags.BoolVar(&a.asJSON, "json", false, "the same as --output json")
	root.AddCommand(a.up(), a.submit(), a.start(), a.builds(), a.build(), a.diff(), a.logs(), a.events(), a.cancel(), a.rebuild(), a.triggers(), a.deadLetters(), a.doctor(), a.completion(), a.version(), a.gitHook())
	return root
}

// noSuchCommand is the error of a word that is no command.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("there is no command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += " (did you mean " + strings.Join(near, " or ") + "?)"
	}
	return &usageError{errors.New(text)}
}

// noArgs and oneArg are cobra's checks with our kind of error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("%s takes no argument, but got %q", cmd.CommandPath(), args[0])}
	}
	return nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return &usageError{fmt.Errorf("%s takes one argument, %s", cmd.CommandPath(), what)}
		}
		return nil
	}
}

// defaultData is the data directory that is used if none is named.
func (a *app) defaultData() string {
	if dir := a.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "kiln")
	}
	return filepath.Join(a.Getenv("HOME"), ".local", "share", "kiln")
}

// client returns a client of the stack that is meant.
func (a *app) client(ctx context.Context) (*client.Client, error) {
	if a.kube != "" {
		return a.clusterClient(ctx)
	}
	files := client.AddressFiles(a.data, a.Getenv("XDG_RUNTIME_DIR"), a.defaultData())
	c, err := client.New(client.Find([]string{a.server, a.Getenv("KILN_SERVER")}, files))
	if err != nil {
		return nil, &usageError{err}
	}
	c.Token = a.ownToken()
	return c, nil
}

func (a *app) json() bool { return a.output == "json" }

// screen is where text for people goes: standard output, or standard error if
// standard output is for JSON.
func (a *app) screen() *show.Screen {
	if a.json() {
		return show.New(a.Stderr, show.Terminal{}, a.Now)
	}
	return show.New(a.Stdout, a.Terminal, a.Now)
}

// printJSON writes a value as one line.
func (a *app) printJSON(v any) error {
	if err := json.NewEncoder(a.Stdout).Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				return a.printJSON(map[string]string{"version": a.Version})
			}
			_, err := fmt.Fprintln(a.Stdout, "kiln", a.Version)
			return err
		},
	}
}

// gitHook is what git runs after a push; see gitd.RunHook.
func (a *app) gitHook() *cobra.Command {
	return &cobra.Command{
		Use: "git-hook DIR FILE", Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return gitd.RunHook(cmd.Context(), args, a.Stderr)
		},
	}
}

// logger writes the stack's own log lines for people.
func (a *app) logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, &usageError{fmt.Errorf("--log-level is %q, and may be debug, info, warn or error", level)}
	}
	opts := &slog.HandlerOptions{Level: l}
	if a.json() {
		return slog.New(slog.NewJSONHandler(a.Stderr, opts)), nil
	}
	return slog.New(slog.NewTextHandler(a.Stderr, opts)), nil
}

// environment is what executors and helpers get of this process' environment.
func (a *app) environment() []string {
	var env []string
	for _, name := range []string{
		"PATH", "LANG", "LC_ALL", "TZ", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "REGISTRY_AUTH_FILE",
	} {
		if v := a.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	docker := a.Getenv("DOCKER_CONFIG")
	if home := a.Getenv("HOME"); docker == "" && home != "" {
		docker = filepath.Join(home, ".docker")
	}
	if docker != "" {
		env = append(env, "DOCKER_CONFIG="+docker)
	}
	return env
}

// list splits the values of an environment variable at commas.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}
