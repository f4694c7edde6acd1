package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/kiln/internal/client"
	"github.com/kilnhook/kiln/infra/kiln/internal/tour"
	"github.com/kilnhook/kiln/infra/local"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/example"
	"github.com/kilnhook/kiln/infra/local/fair"
	"github.com/kilnhook/kiln/infra/local/keep"
	"github.com/kilnhook/kiln/infra/local/registry"
	"github.com/kilnhook/kiln/infra/local/serving"
)

// bundled is the value of --example that means the app in the binary.
const bundled = "bundled"

// upFlags are the flags of kiln up.
type upFlags struct {
	listen, listenS3, executor, isolation, triggers, logLevel string
	webhookSecretFile, example, reports                       string
	secrets                                                   serving.SecretFiles
	hosts, executorArgs, webhooks, mirrors                    []string
	once                                                      bool
	parallel, maxQueued, maxTenantQueued                      int
	timeout, keepAge                                          time.Duration
	keepSize                                                  string
	maxUpload                                                 int64
}

func (a *app) up() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use: "up", Short: "start bucket, git, registry, dispatcher and page on this machine", Args: noArgs,
		Long: "Start everything Kiln is on this machine, in one process and one data directory.\n" +
			"It listens on the loopback interface, where anybody who reaches it may upload and push.\n" +
			"With --listen elsewhere it needs --token-file, and whoever comes a token.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runUp(cmd.Context(), f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.listen, "listen", local.DefaultListen, "address of page, API, git and registry; port 0 is any free one")
	fl.StringVar(&f.listenS3, "listen-s3", "", "address for S3 clients (default: the port after --listen's)")
	fl.StringSliceVar(&f.hosts, "allow-host", nil, "a further host name that clients may use for the stack")
	fl.StringVar(&f.executor, "executor", a.Getenv("KILN_EXECUTOR"), "the executor (KILN_EXECUTOR; default: beside kiln, or on PATH)")
	fl.StringArrayVar(&f.executorArgs, "executor-arg", nil, "a further flag for every executor, as --executor-arg=--cache")
	fl.StringVar(&f.isolation, "isolation", "overlay", "how RUN is kept apart; inplace would write to this machine's own root")
	fl.StringVar(&f.triggers, "triggers", "", "a kiln.yaml that says what is built (default: every upload and every push)")
	fl.StringArrayVar(&f.webhooks, "webhook", nil, "a URL that gets every event posted")
	fl.StringVar(&f.webhookSecretFile, "webhook-secret-file", "", "file with the secret that signs what is posted to --webhook")
	fl.StringVar(&f.reports, "reports", "", "file that says where builds are told: commit statuses and notifications")
	fl.StringVar(&f.secrets.GitHub, "github-secret-file", "", "file with the secret of GitHub webhooks at /hooks/github, one a line while it is changed (or KILN_GITHUB_SECRET)")
	fl.StringVar(&f.secrets.GitLab, "gitlab-secret-file", "", "file with the signing tokens (whsec_…) and secret tokens of GitLab hooks, one a line (or KILN_GITLAB_SECRET)")
	fl.StringVar(&f.secrets.Gitea, "gitea-secret-file", "", "file with the secret of Gitea or Forgejo webhooks (or KILN_GITEA_SECRET)")
	fl.StringVar(&f.secrets.Bitbucket, "bitbucket-secret-file", "", "file with the secret of Bitbucket webhooks (or KILN_BITBUCKET_SECRET)")
	fl.StringVar(&f.secrets.BitbucketURL, "bitbucket-url", a.Getenv("KILN_BITBUCKET_URL"), "address of a Bitbucket Data Center whose webhooks do not say it (KILN_BITBUCKET_URL)")
	fl.StringVar(&f.secrets.Tokens, "token-file", "", "file with the bearer tokens of the other doors and of /v1/, one a line (or KILN_TOKEN); without, they are for this machine alone. With --listen elsewhere the page, uploads, git and registry want one too, as bearer or as password")
	fl.StringSliceVar(&f.mirrors, "base-mirror", list(a.Getenv("KILN_BASE_MIRROR")), "host[/path] to get Docker Hub's images from (KILN_BASE_MIRROR)")
	fl.IntVar(&f.parallel, "max-parallel", 2, "builds at a time")
	fl.IntVar(&f.maxQueued, "max-queued", fair.DefaultMax, "builds that wait; beyond them senders are told to come again")
	fl.IntVar(&f.maxTenantQueued, "max-queued-per-tenant", fair.DefaultTenantMax, "builds of one tenant that wait")
	fl.DurationVar(&f.timeout, "timeout", time.Hour, "of a build whose trigger has none")
	fl.Int64Var(&f.maxUpload, "max-upload", 16<<30, "bytes of the largest upload taken")
	fl.DurationVar(&f.keepAge, "keep", 30*24*time.Hour, "how long builds that have ended, their logs and older contexts stay; 0 is for ever")
	fl.StringVar(&f.keepSize, "keep-size", "", "how much they may take, as 20Gi; the oldest go first (default: no limit)")
	fl.BoolVar(&f.once, "once", false, "build the example, then exit: with 0 if all went well")
	fl.StringVar(&f.example, "example", "", "build this directory through both doors first; "+bundled+" is the app that comes with kiln (default with --once)")
	fl.StringVar(&f.logLevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

func (a *app) runUp(ctx context.Context, f upFlags) error {
	cfg, err := a.config(f)
	if err != nil {
		return err
	}
	stack, err := local.Open(ctx, cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return stack.Serve(ctx) })
	group.Go(func() error {
		err := a.whileUp(ctx, stack, f)
		if err != nil || f.once {
			stop(errEnough)
		}
		return err
	})
	err = group.Wait()
	if errors.Is(err, errEnough) || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// errEnough is why a stack stops that was to do one thing.
var errEnough = errors.New("done")

// config makes the stack's configuration of flags and environment.
func (a *app) config(f upFlags) (local.Config, error) {
	cfg := local.Config{
		Dir: a.data, Listen: f.listen, ListenS3: f.listenS3, Hosts: f.hosts, ExecutorArgs: f.executorArgs, Isolation: f.isolation,
		HookArgs: []string{a.Executable, "git-hook"}, Env: a.environment(), BaseMirrors: f.mirrors,
		Parallel: f.parallel, MaxQueued: f.maxQueued, MaxTenantQueued: f.maxTenantQueued, Timeout: f.timeout, MaxUpload: f.maxUpload, Version: a.Version, Now: a.Now,
	}
	if cfg.Dir == "" {
		cfg.Dir = a.defaultData()
	}
	if f.parallel < 1 || f.timeout <= 0 || f.maxUpload <= 0 || f.maxQueued < 1 || f.maxTenantQueued < 1 {
		return cfg, &usageError{errors.New("--max-parallel, --max-queued, --max-queued-per-tenant, --timeout and --max-upload must be more than 0")}
	}
	var err error
	if cfg.Keep, err = keepRules(f); err != nil {
		return cfg, err
	}
	if cfg.Log, err = a.logger(f.logLevel); err != nil {
		return cfg, err
	}
	executor, err := a.findExecutor(f.executor)
	if err != nil {
		return cfg, err
	}
	cfg.Executor = []string{executor}
	if f.triggers != "" {
		cfg.TriggersFile = f.triggers
		if cfg.Triggers, err = os.ReadFile(f.triggers); err != nil {
			return cfg, fmt.Errorf("read triggers: %w", err)
		}
	}
	if cfg.Secrets, err = f.secrets.Read(a.Getenv); err != nil {
		return cfg, err
	}
	cfg.Traces = serving.TracesWanted(a.Getenv)
	if cfg.Reports, err = serving.ReadReports(f.reports, a.Getenv); err != nil {
		return cfg, err
	}
	cfg.Webhooks, err = a.subscribers(f)
	return cfg, err
}

// keepRules makes rules of flags.
func keepRules(f upFlags) (keep.Rules, error) {
	rules := keep.Rules{Age: f.keepAge}
	if f.keepAge < 0 {
		return rules, &usageError{errors.New("--keep must not be negative")}
	}
	if f.keepSize != "" {
		var err error
		if rules.Size, err = trigger.ParseBytes(f.keepSize); err != nil {
			return rules, &usageError{fmt.Errorf("--keep-size: %w", err)}
		}
	}
	return rules, nil
}

// findExecutor finds the executor binary.
func (a *app) findExecutor(path string) (string, error) {
	if path == "" {
		path = filepath.Join(filepath.Dir(a.Executable), "executor")
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			path = "executor"
		}
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return "", fmt.Errorf("find the executor: %w: build it beside kiln, or name it with --executor", err)
	}
	return filepath.Abs(found)
}

// secret reads a secret from a file, or takes the environment's.
func secret(file, env string) ([]byte, error) {
	if file == "" {
		return []byte(env), nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	for len(data) > 0 && (data[len(data)-1] == '\n' || data[len(data)-1] == '\r') {
		data = data[:len(data)-1]
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("read secret: %s is empty", file)
	}
	return data, nil
}

// subscribers makes a subscriber of each --webhook. Its name is made of the
// URL, so that its place in the stream is found again after a restart.
func (a *app) subscribers(f upFlags) ([]bus.Subscriber, error) {
	text, err := secret(f.webhookSecretFile, a.Getenv("KILN_WEBHOOK_SECRET"))
	if err != nil {
		return nil, err
	}
	var key []byte
	if len(text) > 0 {
		if key, err = bus.ParseSecret(string(text)); err != nil {
			return nil, fmt.Errorf("read webhook secret: %w", err)
		}
	}
	var subs []bus.Subscriber
	for _, url := range f.webhooks {
		sum := sha256.Sum256([]byte(url))
		subs = append(subs, bus.Subscriber{Name: "webhook-" + hex.EncodeToString(sum[:6]), URL: url, Secret: key})
	}
	return subs, nil
}

// whileUp does what a person sees while the stack serves.
func (a *app) whileUp(ctx context.Context, stack *local.Stack, f upFlags) error {
	c, err := client.New(stack.URL())
	if err != nil {
		return err
	}
	if _, err := c.Health(ctx); err != nil {
		return err
	}
	remove := a.leaveAddress(stack)
	defer remove()
	s := a.screen()
	s.Line("kiln is up at %s", stack.URL())
	if a.json() {
		if err := a.printJSON(stack.Address()); err != nil {
			return err
		}
	}
	if f.example != "" || f.once {
		if err := a.tour(ctx, stack, c, f); err != nil {
			if f.once || ctx.Err() != nil {
				return err
			}
			s.Line("kiln: %v", err)
		}
	}
	if f.once {
		return s.Err()
	}
	s.Line("%s", usage(stack))
	<-ctx.Done()
	return nil
}

// leaveAddress tells clients of this user where the stack is, where that can
// be told.
func (a *app) leaveAddress(stack *local.Stack) (remove func()) {
	dir := a.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return func() {}
	}
	path := filepath.Join(dir, "kiln", "address.json")
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = stack.WriteAddress(path)
	}
	if err != nil {
		return func() {} // clients find it in the data directory too
	}
	return func() { _ = os.Remove(path) }
}

func usage(stack *local.Stack) string {
	return fmt.Sprintf(`
Send something:
  kiln submit ./app
  tar -czf - -C ./app . | curl -T - %[1]s/contexts/app/context.tar.gz
  aws s3 cp context.tar.gz s3://contexts/app/context.tar.gz --endpoint-url %[2]s
  git push %[1]s/git/app.git HEAD:main
Watch:
  kiln builds        kiln logs -f BUILD        kiln events -f
  curl -N %[1]s/events
  %[1]s  shows builds, logs and events in a browser
Images are in %[3]s; Ctrl-C stops, and loses nothing.`, stack.URL(), stack.S3URL(), stack.Registry())
}

// tour sends the example through both doors.
func (a *app) tour(ctx context.Context, stack *local.Stack, c *client.Client, f upFlags) (err error) {
	s := a.screen()
	defer s.Clear()
	dir := f.example
	name := "example"
	if dir == "" || dir == bundled {
		if dir, err = os.MkdirTemp("", "kiln-example-"); err != nil {
			return fmt.Errorf("write example: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		if err := example.Write(dir); err != nil {
			return err
		}
	}
	if err := stack.PrepareBases(ctx, func(text string) { s.Line("%s", text) }); err != nil {
		return err
	}
	t := tour.Tour{
		Client: c, Registry: registry.Client{Plain: []string{stack.Registry()}}, Screen: s, Dir: dir, Name: name, Env: a.environment(),
	}
	if a.json() {
		t.Report = func(b api.Build, p registry.Pulled) error {
			return a.printJSON(struct {
				Build  api.Build       `json:"build"`
				Pulled registry.Pulled `json:"pulled"`
			}{b, p})
		}
	}
	return t.Run(ctx)
}
