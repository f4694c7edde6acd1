// Command dispatcher receives changes over HTTP, builds them with executors
// that it runs as child processes, and posts what became of them to a sink.
//
// It is the dispatcher without the rest of the one-machine stack: no bucket, no
// git server, no registry and no page of its own. Everything it must remember
// is in its data directory, or in a bucket and a topic of a cloud.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/gitlab"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/notify"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/oidc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, process{args: os.Args[1:], env: os.Environ(), stderr: os.Stderr, now: time.Now}); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "dispatcher:", err)
		}
		os.Exit(1)
	}
}

// process is what the program is given by the one that starts it.
type process struct {
	args   []string
	env    []string
	stderr io.Writer
	now    func() time.Time
	ready  func(address string) // called once it listens; nil in production
}

// getenv returns a variable of the environment.
func (p process) getenv(name string) string {
	for _, pair := range p.env {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			return v
		}
	}
	return ""
}

// run reads the configuration and serves until the context ends.
func run(ctx context.Context, p process) error {
	cfg, err := configure(p)
	if err != nil {
		return err
	}
	s, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	return s.serve(ctx, p.ready)
}

// config is the configuration of the program.
type config struct {
	listen, data, ledger, install string
	triggers                      trigger.Set
	githubSecrets, giteaSecrets   [][]byte
	gitlabSecrets                 gitlab.Secrets
	bitbucket                     bitbucket.Config
	tokens                        []string
	sink                          *bus.Subscriber // nil: nobody is told
	clouds                        clouds
	executor                      []string
	executorFlags                 []string
	executorEnv                   []string
	insecureRegistries            []string
	parallel                      int
	timeout, sweep                time.Duration
	now                           func() time.Time
	log                           *slog.Logger
}

const usage = `dispatcher receives changes over HTTP, builds them with child processes, and
posts what became of them to a sink.

  POST /hooks/github     webhooks of GitHub, signed with the secret
  POST /hooks/gitlab     hooks of GitLab, with its signing token or secret token
  POST /hooks/gitea      webhooks of Gitea and Forgejo, signed with the secret
  POST /hooks/bitbucket  webhooks of Bitbucket, signed with the secret
  POST /hooks/git        lines of a post-receive hook, or a CloudEvent
  POST /hooks/s3         notifications of S3 and MinIO, of SNS and EventBridge
  POST /events/in        CloudEvents: source.changed, Cloud Storage, Azure Event Grid,
                         Knative's GitHubSource and GitLabSource; Pub/Sub push
  GET  /events           what happens, as server-sent events, with --bus=spool
  GET  /healthz          200 while it works

A ledger in a bucket is, like one in a directory, of one dispatcher at a time: its
builds are child processes that another cannot see.

Usage:
  dispatcher --triggers kiln.yaml --data DIR [flags]

Flags:
`

// flags are the values of the command line that need work before use.
type flags struct {
	triggers, tokenFile, sink, sinkSecretFile, sinkTemplate string
	executor, logFormat                                     string
	githubFile, gitlabFile, giteaFile, bitbucketFile        string
	executorFlags, insecure                                 list
	cloud                                                   cloudFlags
}

// cloudFlags are those about services of a cloud.
type cloudFlags struct {
	bus, oidcAudience, oidcIssuer, oidcKeys string
	pulls, oidcEmails                       list
	cdevents                                bool
}

// define adds the flags to a set.
func (f *cloudFlags) define(fs *flag.FlagSet, p process) {
	way := p.getenv("KILN_BUS")
	if way == "" {
		way = busSpool
	}
	fs.StringVar(&f.bus, "bus", way, "where events go: spool, in the data directory, from which the sink and GET /events are served; sink, posted to it at once; pubsub://PROJECT/TOPIC (KILN_BUS)")
	fs.BoolVar(&f.cdevents, "cdevents", p.getenv("KILN_CDEVENTS") == "true", "send build events in the form of CDEvents 0.5.1 as well (KILN_CDEVENTS=true)")
	fs.Var(&f.pulls, "pull", "fetch changes from pubsub://PROJECT/SUBSCRIPTION or from the https:// URL of a queue of SQS; may be given several times (KILN_PULL, words)")
	fs.StringVar(&f.oidcAudience, "oidc-audience", p.getenv("KILN_OIDC_AUDIENCE"), "let in who posts with an OIDC token for this audience, such as a push subscription (KILN_OIDC_AUDIENCE)")
	fs.Var(&f.oidcEmails, "oidc-email", "account whose OIDC tokens count; may be given several times (KILN_OIDC_EMAIL, words)")
	fs.StringVar(&f.oidcIssuer, "oidc-issuer", oidc.GoogleIssuer, "issuer of the tokens")
	fs.StringVar(&f.oidcKeys, "oidc-keys", oidc.GoogleKeys, "URL of the issuer's keys")
}

// list is a flag that may be given several times.
type list []string

// String implements flag.Value.
func (l *list) String() string { return strings.Join(*l, " ") }

// Set implements flag.Value.
func (l *list) Set(v string) error {
	*l = append(*l, v)
	return nil
}

// configure reads flags, environment and the files they name.
func configure(p process) (config, error) {
	cfg := config{now: p.now, executorEnv: executorEnv(p)}
	var f flags
	fs := flag.NewFlagSet("dispatcher", flag.ContinueOnError)
	fs.SetOutput(p.stderr)
	fs.Usage = func() {
		fmt.Fprint(p.stderr, usage)
		fs.PrintDefaults()
	}
	or := func(value, fallback string) string {
		if value == "" {
			return fallback
		}
		return value
	}
	fs.StringVar(&cfg.listen, "listen", or(p.getenv("KILN_LISTEN"), "127.0.0.1:8766"), "host:port to listen on (KILN_LISTEN)")
	fs.StringVar(&cfg.data, "data", or(p.getenv("KILN_DATA"), "kiln-data"), "directory for builds and the spool of events (KILN_DATA)")
	fs.StringVar(&cfg.ledger, "ledger", p.getenv("KILN_LEDGER"), "ledger, of this dispatcher alone: a directory, gs://BUCKET/PREFIX or s3://BUCKET/PREFIX (KILN_LEDGER; default <data>/ledger)")
	fs.StringVar(&cfg.install, "install", or(p.getenv("KILN_INSTALL"), "default"), "name of this installation, in the source of events (KILN_INSTALL)")
	fs.StringVar(&f.triggers, "triggers", or(p.getenv("KILN_TRIGGERS"), "kiln.yaml"), "file that says what is built (KILN_TRIGGERS)")
	fs.StringVar(&f.githubFile, "github-secret-file", "", "file with the secret of GitHub webhooks, one a line while it is changed (or KILN_GITHUB_SECRET)")
	fs.StringVar(&f.gitlabFile, "gitlab-secret-file", "", "file with the signing tokens (whsec_…) and secret tokens of GitLab hooks, one a line (or KILN_GITLAB_SECRET)")
	fs.StringVar(&f.giteaFile, "gitea-secret-file", "", "file with the secret of Gitea or Forgejo webhooks, one a line while it is changed (or KILN_GITEA_SECRET)")
	fs.StringVar(&f.bitbucketFile, "bitbucket-secret-file", "", "file with the secret of Bitbucket webhooks, one a line while it is changed (or KILN_BITBUCKET_SECRET)")
	fs.StringVar(&cfg.bitbucket.Server, "bitbucket-url", p.getenv("KILN_BITBUCKET_URL"), "address of a Bitbucket Data Center whose webhooks do not say it (KILN_BITBUCKET_URL)")
	fs.StringVar(&f.tokenFile, "token-file", "", "file with the bearer tokens of the other doors, one a line (or KILN_TOKEN); needed unless it listens on a loopback address")
	fs.StringVar(&f.sink, "sink", p.getenv("K_SINK"), "URL that events are posted to (K_SINK)")
	fs.StringVar(&f.sinkSecretFile, "sink-secret-file", "", "file with the secret that signs what is posted (or KILN_SINK_SECRET)")
	fs.StringVar(&f.sinkTemplate, "sink-template", "", "file with a template that writes what is posted, for the webhook of a chat; see docs/subscribe.md")
	fs.StringVar(&f.executor, "executor", or(p.getenv("KILN_EXECUTOR"), "executor"), "program that builds (KILN_EXECUTOR)")
	fs.Var(&f.executorFlags, "executor-flag", "further flag for the executor; may be given several times")
	fs.Var(&f.insecure, "insecure-registry", "host of a registry without TLS, besides those of this machine; may be given several times")
	fs.IntVar(&cfg.parallel, "parallel", 2, "builds at a time")
	fs.DurationVar(&cfg.timeout, "timeout", time.Hour, "of a build whose trigger has none")
	fs.DurationVar(&cfg.sweep, "sweep", time.Minute, "how often to look for what was left undone")
	f.cloud.define(fs, p)
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json")
	if err := fs.Parse(p.args); err != nil {
		return config{}, err
	}
	if fs.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return cfg, f.apply(p, &cfg)
}

// apply checks the flags and reads the files they name.
func (f flags) apply(p process, cfg *config) error {
	if cfg.ledger == "" {
		cfg.ledger = filepath.Join(cfg.data, "ledger")
	}
	cfg.executorFlags, cfg.insecureRegistries = f.executorFlags, f.insecure
	switch f.logFormat {
	case "text":
		cfg.log = slog.New(slog.NewTextHandler(p.stderr, nil))
	case "json":
		cfg.log = slog.New(slog.NewJSONHandler(p.stderr, nil))
	default:
		return fmt.Errorf("--log-format %q is neither text nor json", f.logFormat)
	}
	if cfg.sweep <= 0 || cfg.timeout <= 0 || cfg.parallel <= 0 {
		return errors.New("--sweep, --timeout and --parallel must be positive")
	}
	program, err := exec.LookPath(f.executor)
	if err != nil {
		return fmt.Errorf("find the executor; name it with --executor: %w", err)
	}
	if program, err = filepath.Abs(program); err != nil {
		return fmt.Errorf("find the executor: %w", err)
	}
	cfg.executor = []string{program}
	data, err := os.ReadFile(f.triggers)
	if err != nil {
		return fmt.Errorf("read triggers; name the file with --triggers: %w", err)
	}
	if cfg.triggers, err = trigger.Parse(f.triggers, data); err != nil {
		return fmt.Errorf("read triggers:\n%w", err)
	}
	if err := f.applySecrets(p, cfg); err != nil {
		return err
	}
	if cfg.tokens, err = secretLines(p, f.tokenFile, "KILN_TOKEN"); err != nil {
		return err
	}
	if err := f.applySink(p, cfg); err != nil {
		return err
	}
	return f.cloud.apply(p, cfg)
}

// applySecrets reads the secrets of the forges.
func (f flags) applySecrets(p process, cfg *config) error {
	for _, forge := range []struct {
		file, variable string
		secrets        *[][]byte
	}{
		{f.githubFile, "KILN_GITHUB_SECRET", &cfg.githubSecrets},
		{f.giteaFile, "KILN_GITEA_SECRET", &cfg.giteaSecrets},
		{f.bitbucketFile, "KILN_BITBUCKET_SECRET", &cfg.bitbucket.Secrets},
	} {
		lines, err := secretLines(p, forge.file, forge.variable)
		if err != nil {
			return err
		}
		for _, s := range lines {
			*forge.secrets = append(*forge.secrets, []byte(s))
		}
	}
	lines, err := secretLines(p, f.gitlabFile, "KILN_GITLAB_SECRET")
	if err != nil {
		return err
	}
	if cfg.gitlabSecrets, err = gitlab.ParseSecrets(lines); err != nil {
		return fmt.Errorf("secrets of GitLab: %w", err)
	}
	return nil
}

// applySink makes a subscriber of the sink.
func (f flags) applySink(p process, cfg *config) error {
	if f.sink == "" {
		if f.sinkTemplate != "" {
			return errors.New("--sink-template writes what is posted to a sink: name it with --sink or K_SINK")
		}
		return nil
	}
	overrides, err := bus.ParseOverrides(p.getenv("K_CE_OVERRIDES"))
	if err != nil {
		return err
	}
	cfg.sink = &bus.Subscriber{Name: "sink", URL: f.sink, FromStart: true, Extensions: overrides}
	if f.sinkTemplate != "" {
		text, err := os.ReadFile(f.sinkTemplate)
		if err != nil {
			return fmt.Errorf("read template of the sink: %w", err)
		}
		template, err := notify.Parse(string(text))
		if err != nil {
			return err
		}
		cfg.sink.Render = template.Render
	}
	secrets, err := secretLines(p, f.sinkSecretFile, "KILN_SINK_SECRET")
	if err != nil || len(secrets) == 0 {
		return err
	}
	if len(secrets) > 1 {
		return errors.New("there is more than one secret for the sink")
	}
	if cfg.sink.Secret, err = bus.ParseSecret(secrets[0]); err != nil {
		return fmt.Errorf("secret of the sink: %w", err)
	}
	return nil
}

// secretLines reads the lines of a file, or of a variable if no file is given.
func secretLines(p process, file, variable string) ([]string, error) {
	text := p.getenv(variable)
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read secret: %w", err)
		}
		text = string(data)
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if file != "" && len(lines) == 0 {
		return nil, fmt.Errorf("secret file %s is empty", file)
	}
	return lines, nil
}

// executorEnv is what of our environment an executor gets: all but our own
// secrets.
func executorEnv(p process) []string {
	var env []string
	for _, pair := range p.env {
		if name, _, _ := strings.Cut(pair, "="); !strings.HasPrefix(name, "KILN_") && name != "K_SINK" && name != "K_CE_OVERRIDES" {
			env = append(env, pair)
		}
	}
	return env
}
