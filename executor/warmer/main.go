// Warmer fetches base images into a directory, from which the executor takes
// them with --cache --cache-dir, so that builds on a shared volume need no
// registry for their bases. Its flags are those of kaniko's warmer.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/kilnhook/kiln/executor/internal/access"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var c config
	flags := newFlags(&c, os.Stderr)
	err := access.Parse(flags, os.Args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	if err == nil {
		c.registry.Environment(os.LookupEnv, flags)
		err = c.check(flags)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	w, err := newWarmer(&c, access.Process{
		Lookup: os.LookupEnv, Env: os.Environ(), Now: time.Now, UserAgent: "kiln-warmer/" + version, Log: c.logger(os.Stderr),
	})
	if err == nil {
		err = w.warm(ctx)
	}
	if err != nil {
		w.log.Error("cannot warm", "err", err)
		return 1
	}
	return 0
}

// config is what the command line says.
type config struct {
	images, buildArgs    []string
	dockerfile, platform string
	cacheDir             string
	cacheTTL             time.Duration
	force, logTimestamp  bool
	verbosity, logFormat string
	registry             access.Flags
}

const usage = `warmer fetches base images into a directory for the executor's --cache-dir.

Usage:
  warmer --image REF [--image REF]… [flags]
  warmer --dockerfile FILE|URL [--build-arg NAME=VALUE]… [flags]

Images that are there already are not fetched again; what has expired is
verified and kept, or fetched. Exit status: 0 if at least one image is there in
the end, and 1 otherwise.

Flags:
`

func newFlags(c *config, out io.Writer) *pflag.FlagSet {
	f := pflag.NewFlagSet("warmer", pflag.ContinueOnError)
	f.SortFlags = false
	f.SetOutput(out)
	f.Usage = func() { fmt.Fprint(out, usage+f.FlagUsages()) }
	f.StringArrayVarP(&c.images, "image", "i", nil, "`reference` of an image to fetch; repeatable")
	f.StringVarP(&c.dockerfile, "dockerfile", "d", "", "`path` or URL of a Dockerfile all of whose images are fetched")
	f.StringArrayVar(&c.buildArgs, "build-arg", nil, "`name=value` of a build argument, or a name whose value is in the environment; repeatable")
	f.StringVarP(&c.cacheDir, "cache-dir", "c", "/cache", "`directory` to fetch into")
	f.DurationVar(&c.cacheTTL, "cache-ttl", 14*24*time.Hour, "age at which an image has to be looked at again")
	f.BoolVarP(&c.force, "force", "f", false, "fetch images also if they are there")
	f.StringVar(&c.platform, "custom-platform", "", "`os/arch[/variant]` to fetch for; this machine's by default")
	c.registry.DefineForPull(f)
	f.StringVarP(&c.verbosity, "verbosity", "v", "info", "panic, fatal, error, warn, info, debug or trace")
	f.StringVar(&c.logFormat, "log-format", "color", "text, color or json")
	f.BoolVar(&c.logTimestamp, "log-timestamp", false, "put the time before every line")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "customPlatform" {
			name = "custom-platform"
		}
		return pflag.NormalizedName(name)
	})
	return f
}

func (c *config) check(flags *pflag.FlagSet) error {
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q: see --help", flags.Arg(0))
	case len(c.images) == 0 && c.dockerfile == "":
		return errors.New("you must select at least one image to cache, with --image, or a Dockerfile, with --dockerfile")
	case c.cacheDir == "":
		return errors.New("--cache-dir must name a directory")
	}
	switch c.logFormat {
	case "text", "color", "json":
	default:
		return fmt.Errorf("%s is not a valid log format: want text, color or json", c.logFormat)
	}
	_, err := c.level()
	return err
}

func (c *config) level() (slog.Level, error) {
	switch c.verbosity {
	case "panic", "fatal", "error":
		return slog.LevelError, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "info":
		return slog.LevelInfo, nil
	case "debug", "trace":
		return slog.LevelDebug, nil
	}
	return 0, fmt.Errorf("%q is not a valid verbosity: want panic, fatal, error, warn, info, debug or trace", c.verbosity)
}

// logger writes what the flags ask for. Colour has no meaning here.
func (c *config) logger(w io.Writer) *slog.Logger {
	level, _ := c.level() // checked before
	opt := &slog.HandlerOptions{Level: level}
	if c.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	if !c.logTimestamp {
		opt.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, opt))
}
