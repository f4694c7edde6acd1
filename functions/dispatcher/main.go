// Command dispatcher receives changes over HTTP, builds them with executors
// that it runs as child processes or as Jobs of Kubernetes, and tells a sink what
// became of them.
//
// It is the dispatcher without the rest of the one-machine stack: no bucket, no
// git server and no registry of its own. Everything it must remember
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
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/report"
	"github.com/kilnhook/kiln/functions/retain"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/local/fair"
	"github.com/kilnhook/kiln/infra/local/serving"
	"github.com/kilnhook/kiln/infra/oidc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, process{args: os.Args[1:], env: os.Environ(), stderr: os.Stderr, now: time.Now, memory: debug.SetMemoryLimit(-1)}); err != nil {
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
	memory int64                // bytes that it should stay below; math.MaxInt64 if there is no limit
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
	secrets                       serving.Secrets
	sink                          *bus.Subscriber // nil: nobody is told
	clouds                        clouds
	reports                       report.Config
	traces                        bool
	cluster                       cluster
	kubeconfig                    string
	executor                      []string
	executorFlags                 []string
	executorEnv                   []string
	insecureRegistries            []string
	parallel                      int
	maxQueued, maxTenantQueued    int
	timeout, sweep                time.Duration
	keep                          retain.Rules
	inFlight                      int
	now                           func() time.Time
	log                           *slog.Logger
}

const usage = `dispatcher receives changes over HTTP, builds them with executors, as child
processes or on a cluster, and tells a sink what became of them.

  POST /hooks/github     webhooks of GitHub, signed with the secret
  POST /hooks/gitlab     hooks of GitLab, with its signing token or secret token
  POST /hooks/gitea      webhooks of Gitea and Forgejo, signed with the secret
  POST /hooks/bitbucket  webhooks of Bitbucket, signed with the secret
  POST /hooks/git        lines of a post-receive hook, or a CloudEvent
  POST /hooks/s3         notifications of S3 and MinIO, of SNS and EventBridge
  POST /hooks/registry   notifications of registries, for builds that stand on an image
  POST /events/in        CloudEvents: source.changed, Cloud Storage, Azure Event Grid,
                         Knative's GitHubSource and GitLabSource, CDEvents;
                         Pub/Sub push
  POST /v1/builds        asks for a build: {"repo", "ref"} or {"bucket", "object", "generation"}
  GET  /v1/builds, /v1/builds/ID   what was built, newest first
  GET  /v1/builds/ID/log   what its executor said: ?follow=1, ?format=text
  POST /v1/builds/ID/rebuild, /v1/builds/ID/cancel
  GET  /v1/deadletters   what could not be understood
  GET  /events           what happens, as server-sent events, where there is a spool
  GET  /                 the page: builds, their logs and timelines, trends
  GET  /healthz          200 while it works
  GET  /metrics          figures in the form of Prometheus

With --launcher=process a ledger is of one dispatcher at a time, also one in a
bucket: its builds are child processes that another cannot see. On a cluster there
may be several dispatchers on one ledger in a bucket.

Usage:
  dispatcher --triggers kiln.yaml --data DIR [flags]

Flags:
`

// flags are the values of the command line that need work before use.
type flags struct {
	triggers, sink, sinkSecretFile, sinkTokenFile, executor, logFormat, reports string
	secrets                                                                     serving.SecretFiles
	executorFlags, insecure                                                     list
	cloud                                                                       cloudFlags
	cluster                                                                     clusterFlags
	keep                                                                        keepFlags
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
	fs.StringVar(&f.bus, "bus", way, "where events go: spool, in the data directory, from which the sink and GET /events are served; sink, posted to it at once; pubsub://PROJECT/TOPIC; for reports and traces a spool is kept besides (KILN_BUS)")
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
	cfg := config{now: p.now, executorEnv: executorEnv(p), kubeconfig: p.getenv("KUBECONFIG")}
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
	fs.StringVar(&f.secrets.GitHub, "github-secret-file", "", "file with the secret of GitHub webhooks, one a line while it is changed (or KILN_GITHUB_SECRET)")
	fs.StringVar(&f.secrets.GitLab, "gitlab-secret-file", "", "file with the signing tokens (whsec_…) and secret tokens of GitLab hooks, one a line (or KILN_GITLAB_SECRET)")
	fs.StringVar(&f.secrets.Gitea, "gitea-secret-file", "", "file with the secret of Gitea or Forgejo webhooks, one a line while it is changed (or KILN_GITEA_SECRET)")
	fs.StringVar(&f.secrets.Bitbucket, "bitbucket-secret-file", "", "file with the secret of Bitbucket webhooks, one a line while it is changed (or KILN_BITBUCKET_SECRET)")
	fs.StringVar(&f.secrets.BitbucketURL, "bitbucket-url", p.getenv("KILN_BITBUCKET_URL"), "address of a Bitbucket Data Center whose webhooks do not say it (KILN_BITBUCKET_URL)")
	fs.StringVar(&f.secrets.Tokens, "token-file", "", "file with the bearer tokens of the other doors, one a line (or KILN_TOKEN); needed unless it listens on a loopback address")
	fs.StringVar(&f.sink, "sink", p.getenv("K_SINK"), "URL that events are posted to (K_SINK)")
	fs.StringVar(&f.sinkSecretFile, "sink-secret-file", "", "file with the secret that signs what is posted (or KILN_SINK_SECRET)")
	fs.StringVar(&f.sinkTokenFile, "sink-token-file", p.getenv("KILN_SINK_TOKEN_FILE"), "file with the bearer token that is shown to the sink, read anew for every event, if it is there: /oidc/token of a SinkBinding of Knative (KILN_SINK_TOKEN_FILE)")
	fs.StringVar(&f.reports, "reports", p.getenv("KILN_REPORTS"), "file that says where builds are told: commit statuses and notifications (KILN_REPORTS)")
	fs.StringVar(&f.executor, "executor", or(p.getenv("KILN_EXECUTOR"), "executor"), "program that builds (KILN_EXECUTOR)")
	fs.Var(&f.executorFlags, "executor-flag", "further flag for the executor; may be given several times")
	fs.Var(&f.insecure, "insecure-registry", "host of a registry without TLS, besides those of this machine; may be given several times")
	fs.IntVar(&cfg.parallel, "max-parallel", 2, "builds at a time")
	fs.IntVar(&cfg.inFlight, "max-in-flight", 0, "requests with changes that are held at once, while the ledger or the API server is slow; beyond them senders are told to come again (default: what fits into GOMEMLIMIT, at most 1000)")
	fs.IntVar(&cfg.maxQueued, "max-queued", fair.DefaultMax, "builds that wait; beyond them senders are told to come again")
	fs.IntVar(&cfg.maxTenantQueued, "max-queued-per-tenant", fair.DefaultTenantMax, "builds of one tenant that wait")
	fs.DurationVar(&cfg.timeout, "timeout", time.Hour, "of a build whose trigger has none")
	fs.DurationVar(&cfg.sweep, "sweep", time.Minute, "how often to look for what was left undone")
	f.cloud.define(fs, p)
	f.cluster.define(fs, p)
	f.keep.define(fs, p)
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
	if cfg.sweep <= 0 || cfg.timeout <= 0 || cfg.parallel <= 0 || cfg.maxQueued <= 0 || cfg.maxTenantQueued <= 0 {
		return errors.New("--sweep, --timeout, --max-parallel, --max-queued and --max-queued-per-tenant must be positive")
	}
	if cfg.inFlight < 0 {
		return errors.New("--max-in-flight must be positive, or 0 for what fits")
	}
	if cfg.inFlight == 0 {
		cfg.inFlight = inFlightFor(p.memory)
	}
	var err error
	if cfg.keep, err = f.keep.rules(); err != nil {
		return err
	}
	if err := f.cluster.apply(p, cfg); err != nil {
		return err
	}
	if cfg.cluster.launcher == launchProcess {
		program, err := exec.LookPath(f.executor)
		if err != nil {
			return fmt.Errorf("find the executor; name it with --executor: %w", err)
		}
		if program, err = filepath.Abs(program); err != nil {
			return fmt.Errorf("find the executor: %w", err)
		}
		cfg.executor = []string{program}
	}
	data, err := os.ReadFile(f.triggers)
	if err != nil {
		return fmt.Errorf("read triggers; name the file with --triggers: %w", err)
	}
	if cfg.triggers, err = trigger.Parse(f.triggers, data); err != nil {
		return fmt.Errorf("read triggers:\n%w", err)
	}
	if cfg.secrets, err = f.secrets.Read(p.getenv); err != nil {
		return err
	}
	cfg.traces = serving.TracesWanted(p.getenv)
	if cfg.reports, err = serving.ReadReports(f.reports, p.getenv); err != nil {
		return err
	}
	if err := f.applySink(p, cfg); err != nil {
		return err
	}
	if err := f.cloud.apply(p, cfg); err != nil {
		return err
	}
	return nil
}

const (
	// memoryIdle is what a dispatcher needs that has nothing to do, and memoryEach what
	// a change needs that waits, both measured.
	memoryIdle = 96 << 20
	memoryEach = 320 << 10
	// mostInFlight and leastInFlight bound what follows from that.
	mostInFlight, leastInFlight = 1000, 50
)

// inFlightFor is how many changes fit into so many bytes of memory.
func inFlightFor(memory int64) int {
	return int(min(max((memory-memoryIdle)/memoryEach, leastInFlight), mostInFlight))
}

// applySink makes a subscriber of the sink.
func (f flags) applySink(p process, cfg *config) error {
	if f.sink == "" {
		if f.sinkTokenFile != "" {
			return errors.New("--sink-token-file is for a sink: name it with --sink or K_SINK")
		}
		return nil
	}
	overrides, err := bus.ParseOverrides(p.getenv("K_CE_OVERRIDES"))
	if err != nil {
		return err
	}
	cfg.sink = &bus.Subscriber{Name: "sink", URL: f.sink, FromStart: true, Extensions: overrides, TokenFile: f.sinkTokenFile}
	secrets, err := serving.SecretLines(p.getenv, f.sinkSecretFile, "KILN_SINK_SECRET")
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
