package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"knative.dev/pkg/environment"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/finish"
	"github.com/kilnhook/kiln/infra/local/launch"
	"github.com/kilnhook/kiln/infra/local/serving"
	"github.com/kilnhook/kiln/infra/oidc"
	"github.com/kilnhook/kiln/knative/jobsink"
	jobs "github.com/kilnhook/kiln/knative/launch"
	"github.com/kilnhook/kiln/knative/podlog"
)

// The ways executors run, as --launcher names them.
const (
	launchProcess    = "process"
	launchKubernetes = "kubernetes"
	launchJobSink    = "jobsink"
)

// clusterFlags are those about executors that run on a cluster.
type clusterFlags struct {
	launcher, jobs, namespace string
	jobSink, resultURL        string
	resultKeyFile             string
	jobSinkTokenFile          string
	qps                       float64
	noElection                bool
	audience                  string
	subjects                  list
	followLogs                int
	maxLog                    int64 // MiB
}

// define adds the flags to a set.
func (f *clusterFlags) define(fs *flag.FlagSet, p process) {
	way := p.getenv("KILN_LAUNCHER")
	if way == "" {
		way = launchProcess
	}
	fs.StringVar(&f.launcher, "launcher", way, "how executors run: process, as child processes; kubernetes, as Jobs; jobsink, as Jobs that a Knative JobSink makes (KILN_LAUNCHER)")
	fs.StringVar(&f.jobs, "jobs", p.getenv("KILN_JOBS"), "file that says how Jobs are made: image, profile, resources, … (KILN_JOBS)")
	fs.StringVar(&f.namespace, "namespace", p.getenv("KILN_NAMESPACE"), "namespace of the Jobs; its own by default; with --launcher=jobsink that of the JobSink, whose executors' logs are kept only if it is given (KILN_NAMESPACE)")
	fs.Float64Var(&f.qps, "kube-api-qps", 200, "requests a second to the API server, at most")
	fs.BoolVar(&f.noElection, "no-leader-election", false, "follow Jobs and sweep without asking if another dispatcher does")
	fs.StringVar(&f.audience, "cluster-audience", p.getenv("KILN_CLUSTER_AUDIENCE"), "let in who posts with a token of a service account of the cluster for this audience, such as a Broker of Knative (KILN_CLUSTER_AUDIENCE)")
	fs.Var(&f.subjects, "cluster-subject", "service account whose tokens count, system:serviceaccount:NAMESPACE:NAME; may be given several times (KILN_CLUSTER_SUBJECT, words)")
	fs.IntVar(&f.followLogs, "follow-logs", 256, "logs of pods that are followed at once; the others are read when their executor has ended")
	fs.Int64Var(&f.maxLog, "max-log", 16, "MiB that are kept of the log of one executor on a cluster, at most 16; what it prints beyond is left out")
	fs.StringVar(&f.jobSink, "jobsink", p.getenv("KILN_JOBSINK"), "URL of the JobSink (KILN_JOBSINK)")
	fs.StringVar(&f.jobSinkTokenFile, "jobsink-token-file", p.getenv("KILN_JOBSINK_TOKEN_FILE"), "file with the bearer token that is shown to the JobSink, read anew for every build (KILN_JOBSINK_TOKEN_FILE)")
	fs.StringVar(&f.resultURL, "result-url", p.getenv("KILN_RESULT_URL"), "URL of this dispatcher as executors of a JobSink see it (KILN_RESULT_URL)")
	fs.StringVar(&f.resultKeyFile, "result-key-file", "", "file with the key of the tokens that executors of a JobSink show (or KILN_RESULT_KEY)")
}

// cluster is what of the configuration is about executors on a cluster.
type cluster struct {
	launcher  string
	options   jobs.Options
	namespace string
	qps       float64
	election  bool

	followLogs int
	maxLog     int64 // bytes

	jobSink   string
	sink      jobsink.Sink // that it is the URL of
	resultURL string
	resultKey []byte
	tokenFile string      // for the JobSink
	oidc      oidc.Config // of service accounts; without an audience none is let in
}

// minKey is the length of a key that nobody guesses, in bytes.
const minKey = 16

// ownNamespace is where a pod finds the name of its namespace.
const ownNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// apply checks the flags and reads the files they name.
func (f clusterFlags) apply(p process, cfg *config) error {
	c := &cfg.cluster
	c.launcher, c.namespace, c.qps, c.election = f.launcher, f.namespace, f.qps, !f.noElection
	if err := f.applyIdentity(p, c); err != nil {
		return err
	}
	switch f.launcher {
	case launchProcess:
		c.election = false
		return nil
	case launchKubernetes:
		return f.applyKubernetes(c)
	case launchJobSink:
		c.election = c.election && c.namespace != ""
		return f.applyJobSink(p, c)
	}
	return fmt.Errorf("--launcher %q is none of process, kubernetes and jobsink", f.launcher)
}

// subjectPrefix begins the name of a service account in its tokens.
const subjectPrefix = "system:serviceaccount:"

// applyIdentity says which service accounts are let in.
func (f clusterFlags) applyIdentity(p process, c *cluster) error {
	c.oidc = oidc.Config{Audience: f.audience, Subjects: f.subjects, Now: p.now}
	if len(c.oidc.Subjects) == 0 {
		c.oidc.Subjects = strings.Fields(p.getenv("KILN_CLUSTER_SUBJECT"))
	}
	if (c.oidc.Audience == "") != (len(c.oidc.Subjects) == 0) {
		return errors.New("--cluster-audience and --cluster-subject go together")
	}
	for _, subject := range c.oidc.Subjects {
		if rest, ok := strings.CutPrefix(subject, subjectPrefix); !ok || strings.Count(rest, ":") != 1 {
			return fmt.Errorf("--cluster-subject %s is not %sNAMESPACE:NAME", subject, subjectPrefix)
		}
	}
	return nil
}

func (f clusterFlags) applyKubernetes(c *cluster) error {
	data, err := os.ReadFile(f.jobs)
	if err != nil {
		return fmt.Errorf("read how Jobs are made; name the file with --jobs: %w", err)
	}
	if c.options, err = jobs.ParseOptions(data); err != nil {
		return fmt.Errorf("%s: %w", f.jobs, err)
	}
	if c.namespace == "" {
		own, err := os.ReadFile(ownNamespace)
		if err != nil {
			return errors.New("this is not a pod: say with --namespace where Jobs are made")
		}
		c.namespace = strings.TrimSpace(string(own))
	}
	return f.applyLogs(c)
}

// applyLogs says how logs of pods are kept.
func (f clusterFlags) applyLogs(c *cluster) error {
	if f.qps <= 0 {
		return errors.New("--kube-api-qps must be positive")
	}
	if f.followLogs <= 0 {
		return errors.New("--follow-logs must be positive")
	}
	if f.maxLog <= 0 || f.maxLog > 16 {
		return fmt.Errorf("--max-log is %d, and may be 1 to 16: a log is one value of the ledger", f.maxLog)
	}
	c.followLogs, c.maxLog = f.followLogs, f.maxLog<<20
	return nil
}

func (f clusterFlags) applyJobSink(p process, c *cluster) error {
	for flag, text := range map[string]string{"--jobsink": f.jobSink, "--result-url": f.resultURL} {
		if u, err := url.Parse(text); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("with --launcher=jobsink, %s is the http:// or https:// URL that it is for, not %q", flag, text)
		}
	}
	c.tokenFile = f.jobSinkTokenFile
	c.jobSink, c.resultURL = f.jobSink, strings.TrimSuffix(f.resultURL, "/")+finish.GatewayPath
	keys, err := serving.SecretLines(p.getenv, f.resultKeyFile, "KILN_RESULT_KEY")
	if err != nil {
		return err
	}
	if len(keys) != 1 || len(keys[0]) < minKey {
		return fmt.Errorf("with --launcher=jobsink, --result-key-file has one line of at least %d characters", minKey)
	}
	c.resultKey = []byte(keys[0])
	if c.namespace == "" {
		return nil
	}
	if c.sink, err = jobsink.ParseURL(f.jobSink); err != nil {
		return fmt.Errorf("--jobsink: %w", err)
	}
	if c.sink.Namespace != c.namespace {
		return fmt.Errorf("--namespace is %s, and %s is a JobSink of the namespace %s: the pods of its Jobs are there", c.namespace, f.jobSink, c.sink.Namespace)
	}
	return f.applyLogs(c)
}

// openLauncher opens what runs executors.
func (s *service) openLauncher(ctx context.Context, finisher *finish.Finisher) error {
	switch s.cfg.cluster.launcher {
	case launchKubernetes:
		return s.openJobs(ctx, finisher)
	case launchJobSink:
		return s.openJobSink(ctx, finisher)
	}
	l, err := launch.Open(launch.Config{
		Dir: filepath.Join(s.cfg.data, "builds"), Executor: s.cfg.executor, Env: s.cfg.executorEnv,
		Parallel: s.cfg.parallel, MaxQueued: s.cfg.maxQueued, MaxTenantQueued: s.cfg.maxTenantQueued, Capacity: serving.Capacity(s.cfg.data),
		Timeout: s.cfg.timeout, Finish: finisher.Finish, Started: s.started, Flags: s.flags,
		Now: s.cfg.now, Log: s.cfg.log,
	})
	if err != nil {
		return err
	}
	s.launcher, s.local, s.follow, s.load, s.logs = serving.Launcher{L: l}, l, l.Run, l.Load, l
	return nil
}

// access is how the API server of the cluster that the environment says is reached.
func (c config) access() (*rest.Config, error) {
	env := environment.ClientConfig{QPS: c.cluster.qps, Burst: int(1.5 * c.cluster.qps), Kubeconfig: c.kubeconfig}
	access, err := env.GetRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	return access, nil
}

// client is a client of the cluster that the environment says.
func (c config) client() (kubernetes.Interface, error) {
	access, err := c.access()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return client, nil
}

// keepLogs opens the keeper of what the executors of pods say, which selector finds.
func (s *service) keepLogs(ctx context.Context, client kubernetes.Interface, selector func(events.Request) string) (*podlog.Keeper, error) {
	keeper, err := podlog.New(ctx, podlog.Config{
		Client: client, Namespace: s.cfg.cluster.namespace, Selector: selector, Ledger: s.ledger, Dir: filepath.Join(s.cfg.data, "logs"),
		Follow: s.cfg.cluster.followLogs, MaxLog: s.cfg.cluster.maxLog, Now: s.cfg.now, Log: s.cfg.log,
	})
	if err != nil {
		return nil, err
	}
	s.logs, s.closers = keeper, append(s.closers, keeper)
	return keeper, nil
}

// openElection has one of several dispatchers follow and sweep, if that is wanted.
func (s *service) openElection(client kubernetes.Interface) {
	if s.cfg.cluster.election {
		s.elect = election{client: client, namespace: s.cfg.cluster.namespace, log: s.cfg.log}.lead
	}
}

// openJobSink opens the launcher that asks a JobSink, and follows the logs of its pods
// if the namespace of these is known.
func (s *service) openJobSink(ctx context.Context, finisher *finish.Finisher) error {
	gateway := finish.Gateway{Finisher: finisher, Key: s.cfg.cluster.resultKey}
	l, err := jobsink.New(jobsink.Config{
		URL: s.cfg.cluster.jobSink, ResultURL: s.cfg.cluster.resultURL, Token: gateway.Token, Ledger: s.ledger,
		Timeout: s.cfg.timeout, TokenFile: s.cfg.cluster.tokenFile, Now: s.cfg.now, Log: s.cfg.log,
	})
	if err != nil {
		return err
	}
	s.launcher, s.results, s.load = l, gateway, func() (queued, running int) { return 0, 0 } // it sees no Jobs
	s.follow = func(ctx context.Context) error { <-ctx.Done(); return nil }
	if s.cfg.cluster.namespace == "" {
		return nil
	}
	client, err := s.cfg.client()
	if err != nil {
		return err
	}
	sink := s.cfg.cluster.sink
	keeper, err := s.keepLogs(ctx, client, func(req events.Request) string {
		return sink.Selector(req, dispatch.DefaultMaxAttempts)
	})
	if err != nil {
		return err
	}
	follower, err := jobsink.NewFollower(jobsink.FollowerConfig{
		Client: client, Sink: sink, Attempts: dispatch.DefaultMaxAttempts, Ledger: s.ledger, Logs: keeper,
		Reach: l.Reach(dispatch.DefaultMaxAttempts), Log: s.cfg.log,
	})
	if err != nil {
		return err
	}
	s.follow = follower.Run
	s.openElection(client)
	return nil
}

// openJobs opens the launcher of Jobs, on the cluster that the environment says.
func (s *service) openJobs(ctx context.Context, finisher *finish.Finisher) error {
	client, err := s.cfg.client()
	if err != nil {
		return err
	}
	options := s.cfg.cluster.options
	for _, host := range s.cfg.insecureRegistries {
		options.Template.Flags = append(options.Template.Flags, "--insecure-registry="+host)
	}
	options.Template.Flags = append(options.Template.Flags, s.cfg.executorFlags...)
	if options.Template.Timeout == 0 {
		options.Template.Timeout = s.cfg.timeout
	}
	keeper, err := s.keepLogs(ctx, client, nil)
	if err != nil {
		return err
	}
	l, err := jobs.New(jobs.Config{
		Logs: keeper, Client: client, Namespace: s.cfg.cluster.namespace, Template: options.Template, PendingTimeout: options.PendingTimeout,
		Finish: finisher.Finish, Started: s.started, Now: s.cfg.now, Log: s.cfg.log,
	})
	if err != nil {
		return err
	}
	s.launcher, s.follow, s.load, s.glance = l, l.Run, l.Load, l.Glance
	s.openElection(client)
	return nil
}

// leadFor is how long a leader that does not answer stays the leader.
const leadFor = 15 * time.Second
