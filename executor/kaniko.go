package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kilnhook/kiln/executor/internal/layer"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
)

// kanikoFlags are flags of kaniko and its forks about the form of the image
// and the container that it is built in.
func kanikoFlags(f *pflag.FlagSet, c *config) {
	f.StringArrayVar(&c.annotations, "annotation", nil, "`name=value` of an annotation of the manifest; repeatable")
	f.StringVar(&c.compression, "compression", "gzip", "`algorithm` that new layers are compressed with: gzip or zstd")
	f.IntVar(&c.compressionLevel, "compression-level", -1, "`level` of compression: 1 to 9 for gzip, 1 to 22 for zstd; -1 for the default")
	f.StringVar(&c.imageFormat, "image-format", "oci", "media types of the image: oci or docker")
	f.BoolVar(&c.noPushCache, "no-push-cache", false, "look for steps in the cache but store none")
	f.BoolVar(&c.reproducible, "reproducible", false, "take 1970 for every time in the image, unless SOURCE_DATE_EPOCH says another")
	f.BoolVar(&c.ignoreVarRun, "ignore-var-run", false, "keep /var/run out of every layer; kaniko's default is true, since it has to")
	f.BoolVar(&c.skipUnused, "skip-unused-stages", true, "stages that the image does not need are never built; only true")
	f.BoolVar(&c.useNewRun, "use-new-run", false, "accepted for kaniko's sake: what a RUN changes is always found without hashing everything")
	f.IntVar(&c.extractRetry, "image-fs-extract-retry", 0, "how often the extraction of a layer is tried again")
	f.BoolVar(&c.cleanup, "cleanup", false, "remove what an in-place build made, so that the container can build again")
	f.BoolVar(&c.preCleanup, "pre-cleanup", false, "empty the container's root before an in-place build")
	f.BoolVar(&c.materialize, "materialize", false, "leave the image's files in the container's root, also if the cache had everything; only in place")
	f.BoolVar(&c.buildMetadata, "force-build-metadata", false, "of no effect: instructions that change no files never have layers")
	f.BoolVar(&c.preserveContext, "preserve-context", false, "fail rather than build in place, which replaces the container's files")
	f.BoolVar(&c.logTimestamp, "log-timestamp", false, "put the time before every line")
	f.StringVarP(&c.bucket, "bucket", "b", "", "`bucket` of Google's to get context.tar.gz from; use --context=gs://…")
}

// oneStage is the value of --target, of which kaniko's forks take several.
type oneStage struct {
	name  *string
	given bool
}

func (o *oneStage) String() string { return "" }
func (o *oneStage) Type() string   { return "stage" }

func (o *oneStage) Set(s string) error {
	if o.given || strings.Contains(s, ",") {
		return errors.New("only one stage can be built: run the executor once for each")
	}
	*o.name, o.given = s, true
	return nil
}

// spelling knows the spellings that kaniko had before.
func spelling(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "snapshotMode":
		name = "snapshot-mode"
	case "customPlatform":
		name = "custom-platform"
	case "tarPath":
		name = "tar-path"
	case "whitelist-var-run":
		name = "ignore-var-run"
	}
	return pflag.NormalizedName(name)
}

// checkForm judges kanikoFlags.
func (c *config) checkForm() error {
	if !c.skipUnused {
		return errors.New("--skip-unused-stages=false is not supported: stages that the image does not need are never built; build them with --target")
	}
	if _, err := c.annotationMap(); err != nil {
		return err
	}
	if _, err := c.layerCompression(); err != nil {
		return err
	}
	switch c.imageFormat {
	case "oci":
	case "docker":
		if len(c.annotations) > 0 {
			return errors.New("--annotation needs --image-format=oci: Docker's manifest has no annotations")
		}
		if c.compression == "zstd" {
			return errors.New("--compression=zstd needs --image-format=oci: Docker's format knows gzip only")
		}
	default:
		return fmt.Errorf("%q is not a valid image format: want oci or docker", c.imageFormat)
	}
	if c.extractRetry < 0 {
		return errors.New("--image-fs-extract-retry must not be negative")
	}
	if c.materialize && c.cleanup {
		return errors.New("--materialize and --cleanup exclude each other: one leaves the image's files, the other removes them")
	}
	return nil
}

// tellIgnored warns of flags that were given and change nothing here.
func (s *session) tellIgnored() {
	for _, f := range []struct {
		given bool
		why   string
	}{
		{s.c.useNewRun, "--use-new-run changes nothing: what a RUN changes is found without reading every file anyway"},
		{s.c.snapshotMode != "full", "--snapshot-mode=" + s.c.snapshotMode + " changes nothing: every change is found, and as fast"},
		{!s.c.compressedCaching, "--compressed-caching=false changes nothing: layers are never held in memory"},
		{s.c.buildMetadata, "--force-build-metadata changes nothing: instructions that change no files have no layers, as with BuildKit"},
		{s.gitFlag("single-branch"), "--git single-branch changes nothing: one commit is fetched, and no other branch"},
		{s.gitFlag("depth") && !s.keepGitDir(), "--git depth changes nothing: without --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1 the files of one commit are fetched and no history"},
		{s.iso.mode == sandbox.Overlay && s.c.preCleanup, "--pre-cleanup changes nothing with --isolation=overlay, which leaves the container's root alone"},
		{s.iso.mode == sandbox.Overlay && s.c.cleanup, "--cleanup changes nothing with --isolation=overlay, which leaves the container's root alone"},
	} {
		if f.given {
			s.note("warning: %s", f.why)
		}
	}
	s.tellIgnoredVariables()
}

func (s *session) gitFlag(key string) bool {
	return slices.ContainsFunc(s.c.git, func(kv string) bool { return strings.HasPrefix(kv, key+"=") })
}

func (c *config) annotationMap() (map[string]string, error) {
	if len(c.annotations) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, a := range c.annotations {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("annotations must be of the form key=value, got %s", a)
		}
		out[k] = v
	}
	return out, nil
}

func (c *config) layerCompression() (layer.Compression, error) {
	highest := 9
	switch c.compression {
	case "gzip":
	case "zstd":
		highest = 22
	default:
		return layer.Compression{}, fmt.Errorf("%q is not a valid compression: want gzip or zstd", c.compression)
	}
	if c.compressionLevel == -1 {
		return layer.Compression{Zstd: c.compression == "zstd"}, nil
	}
	if c.compressionLevel < 1 || c.compressionLevel > highest {
		return layer.Compression{}, fmt.Errorf("--compression-level %d: want 1 to %d for %s, or -1 for the default", c.compressionLevel, highest, c.compression)
	}
	return layer.Compression{Zstd: c.compression == "zstd", Level: c.compressionLevel}, nil
}

// ignored are the paths that are in no layer.
func (c *config) ignored() []string {
	out := append([]string{}, c.ignorePaths...)
	if c.ignoreVarRun {
		out = append(out, "/var/run")
	}
	return out
}

// exclude tells what lies below the ignored paths, and names them.
func (c *config) exclude() (exclude func(name string) bool, name string) {
	in := map[string]bool{}
	for _, p := range c.ignored() {
		if p = rootfs.Clean(p); p != "." {
			in[p] = true
		}
	}
	if len(in) == 0 {
		return nil, ""
	}
	return func(name string) bool {
		for ; name != "."; name = rootfs.Parent(name) {
			if in[name] {
				return true
			}
		}
		return false
	}, strings.Join(c.ignored(), "\n")
}
