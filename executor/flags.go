package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/executor/internal/access"
	"github.com/kilnhook/kiln/executor/view"
)

// config is what the command line and the environment say, in kaniko's
// spelling where kaniko has one.
type config struct {
	context, subPath, dockerfile string
	destinations                 []string
	buildArgs, labels            []string
	git, buildContexts           []string
	checkOnly                    bool
	target, platform             string

	noPush, pushByDigest          bool
	tarPath, layoutPath           string
	digestFile, nameDigestFile    string
	nameTagDigestFile, resultFile string
	eventSink                     string
	skipPushCheck                 bool

	registry access.Flags

	cache, cacheCopies, cacheRuns bool
	cacheRepo, cacheDir           string
	cacheTTL                      time.Duration

	isolation, workDir    string
	storeDir              string
	storeSize             byteSize
	ignorePaths           []string
	singleSnapshot, force bool
	snapshotMode          string
	dryRun                bool
	progress, verbosity   string
	logFormat             string
	compressedCaching     bool

	secrets, sshAgents                     []string
	cacheMountDir                          string
	annotations                            []string
	compression                            string
	compressionLevel                       int
	imageFormat                            string
	noPushCache, reproducible              bool
	ignoreVarRun, skipUnused, useNewRun    bool
	cleanup, preserveContext, logTimestamp bool
	preCleanup, materialize, buildMetadata bool
	extractRetry                           int

	requestFile, terminationFile string
	asked                        *events.Order // what the request file asks for; nil without one
	bucket                       string
}

const usage = `executor builds a container image from a Dockerfile and a context, and pushes it.

Usage:
  executor --context DIR|URL --destination REF [flags]
  executor --request-file FILE [flags]
  executor --check --context DIR|URL [flags]
  executor doctor --context DIR|URL --destination REF [flags]
  executor push FILE|DIR --destination REF [flags]
  executor login REGISTRY --username U --password-stdin
  executor completion bash|zsh|fish
  executor version

Contexts: a directory, dir://, tar:// (tar://stdin), git://host/repo.git[#ref],
https://…, gs://bucket/object, s3://bucket/key, https://account.blob.core.windows.net/….
Exit status: 0 on success, that of the RUN that failed, and 1 otherwise.

Flags:
`

// newFlags defines every flag. One that is not here is an error, not ignored.
func newFlags(c *config, out io.Writer) *pflag.FlagSet {
	f := pflag.NewFlagSet("executor", pflag.ContinueOnError)
	f.SortFlags = false
	f.SetOutput(out)
	f.Usage = func() { fmt.Fprint(out, usage+f.FlagUsages()) }
	inputFlags(f, c)
	outputFlags(f, c)
	registryFlags(f, c)
	buildFlags(f, c)
	kanikoFlags(f, c)
	requestFlags(f, c)
	f.SetNormalizeFunc(spelling)
	return f
}

func inputFlags(f *pflag.FlagSet, c *config) {
	f.StringVarP(&c.context, "context", "c", "/workspace/", "build `context`: a directory or a URL")
	f.StringVar(&c.subPath, "context-sub-path", "", "`directory` of the context that is the context")
	f.StringVarP(&c.dockerfile, "dockerfile", "f", "Dockerfile", "`path` of the Dockerfile, in the working directory or the context, or its URL")
	f.StringArrayVar(&c.buildArgs, "build-arg", nil, "`name=value` of a build argument, or a name whose value is in the environment; repeatable")
	f.StringArrayVar(&c.buildContexts, "build-context", nil, "`name=where` of a further context for FROM and --from: a directory, docker-image://ref, oci-layout://dir, a git or archive URL; repeatable")
	f.Var(&oneStage{name: &c.target}, "target", "`stage` to build; the last by default")
	f.StringArrayVar(&c.labels, "label", nil, "`name=value` of a label of the image; repeatable")
	f.StringVar(&c.platform, "custom-platform", "", "`os/arch[/variant]` to build for; this machine's by default")
	f.StringArrayVar(&c.git, "git", nil, "`key=value` for a git context: branch, single-branch, depth, recurse-submodules, insecure-skip-tls; repeatable")
}

func outputFlags(f *pflag.FlagSet, c *config) {
	f.StringArrayVarP(&c.destinations, "destination", "d", nil, "`reference` to push to; repeatable")
	f.BoolVar(&c.noPush, "no-push", false, "do not push the image")
	f.BoolVar(&c.pushByDigest, "push-by-digest", false, "push without moving a tag")
	f.StringVar(&c.tarPath, "tar-path", "", "write the image to `file` as docker load reads it")
	f.StringVar(&c.layoutPath, "oci-layout-path", "", "write the image to `directory` as an OCI image layout")
	f.StringVar(&c.digestFile, "digest-file", "", "write the digest to `file`, or PUT it to an https:// URL, once the image is where it should be")
	f.StringVar(&c.nameDigestFile, "image-name-with-digest-file", "", "write repository@digest of each destination to `file`")
	f.StringVar(&c.nameTagDigestFile, "image-name-tag-with-digest-file", "", "write repository:tag@digest of each destination to `file`")
	f.StringVar(&c.resultFile, "result-file", "", "write what became of the build to `file` as JSON, also if it failed")
	f.StringVar(&c.eventSink, "event-sink", "", "send the build.finished CloudEvent to `URL`; $K_SINK by default")
}

func registryFlags(f *pflag.FlagSet, c *config) {
	f.BoolVar(&c.skipPushCheck, "skip-push-permission-check", false, "do not check before the build that the destination may be pushed to")
	c.registry.Define(f)
	cacheFlags(f, c)
}

func cacheFlags(f *pflag.FlagSet, c *config) {
	f.BoolVar(&c.cache, "cache", false, "look for steps in the cache and store them there")
	f.StringVar(&c.cacheRepo, "cache-repo", "", "`repository` of the cache, or oci:DIR; <destination>/cache by default")
	f.StringVar(&c.cacheDir, "cache-dir", "/cache", "`directory` of base images that the warmer has fetched; used with --cache")
	f.DurationVar(&c.cacheTTL, "cache-ttl", 14*24*time.Hour, "age at which a cached step or base image is forgotten")
	f.BoolVar(&c.cacheCopies, "cache-copy-layers", false, "cache COPY and ADD too")
	f.BoolVar(&c.cacheRuns, "cache-run-layers", true, "cache RUN")
	f.BoolVar(&c.compressedCaching, "compressed-caching", true, "accepted for kaniko's sake: layers are never held in memory")
}

func buildFlags(f *pflag.FlagSet, c *config) {
	f.StringVar(&c.isolation, "isolation", "auto", "`mode`: overlay, inplace, or auto for overlay where it can be had")
	f.StringVar(&c.workDir, "work-dir", "", "`directory` for everything a build keeps on disk; a new one by default")
	f.StringVar(&c.storeDir, "store-dir", "", "`directory` of what builds on this machine share: indexes of layers and extracted images; without it they last as long as the build")
	c.storeSize = 20 << 30
	f.Var(&c.storeSize, "store-size", "how much may stay in --store-dir after a build, as 500MB or 20GiB; what was not used for longest goes; 0 keeps everything")
	f.StringArrayVar(&c.ignorePaths, "ignore-path", nil, "`path` that is in no layer and that an in-place build leaves alone; repeatable")
	f.StringArrayVar(&c.secrets, "secret", nil, "`id=name[,src=file|,env=variable]` of a secret for RUN --mount=type=secret; repeatable")
	f.StringArrayVar(&c.sshAgents, "ssh", nil, "`id[=socket]` of an ssh agent for RUN --mount=type=ssh, default for the one at $SSH_AUTH_SOCK; repeatable")
	f.StringVar(&c.cacheMountDir, "cache-mount-dir", "", "`directory` that keeps what RUN --mount=type=cache mounts; without it a cache lasts as long as the build")
	f.StringVar(&c.snapshotMode, "snapshot-mode", "full", "full, redo or time, for kaniko's sake: all find every change")
	f.BoolVar(&c.singleSnapshot, "single-snapshot", false, "make one layer of the last stage")
	f.BoolVar(&c.force, "force", false, "build in place outside of a container too: this replaces the machine's files")
	f.BoolVar(&c.checkOnly, "check", false, "look for mistakes in the Dockerfile, print them and build nothing")
	f.BoolVar(&c.dryRun, "dryrun", false, "print the plan and build nothing")
	f.StringVar(&c.progress, "progress", "", "auto, tty, plain or json; as --log-format by default")
	f.StringVarP(&c.verbosity, "verbosity", "v", "info", "panic, fatal, error, warn, info, debug or trace")
	f.StringVar(&c.logFormat, "log-format", "color", "text, color or json")
}

// byteSize is a number of bytes, written with a unit as docker's flags are.
type byteSize int64

func (b *byteSize) String() string { return units.BytesSize(float64(*b)) }
func (b *byteSize) Type() string   { return "size" }

func (b *byteSize) Set(s string) error {
	n, err := units.RAMInBytes(s)
	if err != nil {
		return fmt.Errorf("%q is no size: want a number and a unit, as 500MB or 20GiB", s)
	}
	*b = byteSize(n)
	return nil
}

// check finds what no single flag can.
func (c *config) check() error {
	if len(c.destinations) == 0 && !c.noPush && !c.checkOnly {
		return errors.New("you must provide --destination, or use --no-push")
	}
	if c.pushByDigest && c.noPush {
		return errors.New("--push-by-digest and --no-push exclude each other")
	}
	if len(c.destinations) == 0 && (c.nameDigestFile != "" || c.nameTagDigestFile != "") {
		return errors.New("--image-name-with-digest-file and --image-name-tag-with-digest-file need a --destination")
	}
	if c.cache && !c.checkOnly && c.cacheRepo == "" && len(c.destinations) == 0 {
		return errors.New("if using cache with --no-push, specify cache repo with --cache-repo")
	}
	if err := c.checkForm(); err != nil {
		return err
	}
	switch c.snapshotMode {
	case "full", "redo", "time":
	default:
		return fmt.Errorf("%s is not a valid snapshot mode: want full, redo or time", c.snapshotMode)
	}
	switch c.logFormat {
	case "text", "color", "json":
	default:
		return fmt.Errorf("%s is not a valid log format: want text, color or json", c.logFormat)
	}
	if c.progress != "" && !slices.Contains(view.Modes(), c.progress) {
		return fmt.Errorf("%s is not a way to show progress: want %s", c.progress, strings.Join(view.Modes(), ", "))
	}
	if _, err := c.level(); err != nil {
		return err
	}
	for _, l := range c.labels {
		if k, _, ok := strings.Cut(l, "="); !ok || k == "" {
			return fmt.Errorf("labels must be of the form key=value, got %s", l)
		}
	}
	return nil
}

// level is how much is told: 0 only failures, 1 warnings, 2 everything, 3 debug.
func (c *config) level() (int, error) {
	switch c.verbosity {
	case "panic", "fatal", "error":
		return 0, nil
	case "warn", "warning":
		return 1, nil
	case "info":
		return 2, nil
	case "debug", "trace":
		return 3, nil
	}
	return 0, fmt.Errorf("%q is not a valid verbosity: want panic, fatal, error, warn, info, debug or trace", c.verbosity)
}

// progressMode is how progress is rendered.
func (c *config) progressMode() string {
	switch {
	case c.progress != "":
		return c.progress
	case c.logFormat == "json":
		return "json"
	case c.logFormat == "text":
		return "plain"
	}
	return "auto"
}

// arguments reads --build-arg. A name alone takes its value from the
// environment and is empty if it has none there, as kaniko does.
func (c *config) arguments(lookup func(string) (string, bool)) (map[string]string, error) {
	out := map[string]string{}
	for _, a := range c.buildArgs {
		k, v, ok := strings.Cut(a, "=")
		if k == "" {
			return nil, fmt.Errorf("--build-arg %q: want name=value", a)
		}
		if !ok {
			v, _ = lookup(k)
		}
		out[k] = v
	}
	return out, nil
}

func (c *config) labelMap() map[string]string {
	out := map[string]string{}
	for _, l := range c.labels {
		k, v, _ := strings.Cut(l, "=")
		out[k] = v
	}
	return out
}
