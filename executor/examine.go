package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/registry"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/source"
)

// Less free space or memory than this is worth a warning, in bytes.
const (
	littleDisk   = 2 << 30
	littleMemory = 256 << 20
)

// examine looks at everything, in the order in which a build needs it.
func (d *doctor) examine(ctx context.Context) {
	d.isolation(ctx)
	d.tellIgnored()
	d.disk()
	d.memory()
	if _, err := d.mounts(); err != nil {
		d.say("secrets and agents", "", findingFailed, "%v", err)
	} else if len(d.c.secrets)+len(d.c.sshAgents) > 0 {
		d.say("secrets and agents", "", findingOK, "%d secrets and %d agents can be used", len(d.c.secrets), len(d.c.sshAgents))
	}
	d.outputs()
	client, err := d.newClient()
	if err != nil {
		d.say("registry settings", "", findingFailed, "%v", err)
	}
	d.input(ctx, client)
	if client != nil {
		d.destinations(ctx, client)
		d.caches(ctx, client)
	}
}

// isolation says how the build would be isolated, and why not better.
func (d *doctor) isolation(ctx context.Context) {
	mode, err := sandbox.ParseMode(d.c.isolation)
	if err != nil {
		d.say("isolation", "", findingFailed, "%v", err)
		return
	}
	var why string
	if mode != sandbox.InPlace {
		ns, err := sandbox.Probe(ctx, d.workDir)
		switch {
		case err == nil && ns.User:
			d.iso = isolation{mode: sandbox.Overlay, ns: ns}
			d.say("isolation", "overlay", findingOK, "a mount namespace in a user namespace, and overlays in it")
			return
		case err == nil:
			d.iso = isolation{mode: sandbox.Overlay, ns: ns}
			d.say("isolation", "overlay", findingOK, "a mount namespace, and overlays in it")
			return
		case mode == sandbox.Overlay || !errors.Is(err, sandbox.ErrNoOverlay):
			d.say("isolation", "overlay", findingFailed, "%v", err)
			return
		}
		why = err.Error()
	}
	d.iso = isolation{mode: sandbox.InPlace, why: why}
	switch {
	case d.c.preserveContext:
		d.say("isolation", "inplace", findingFailed, "--preserve-context does not allow it%s", because(why))
	case os.Geteuid() != 0:
		d.say("isolation", "inplace", findingWarning, "the container's own root, but not as root: files cannot be given to other users%s", because(why))
	case inContainer(d.p.lookup):
		d.say("isolation", "inplace", findingOK, "the container's own root%s", because(why))
	case d.c.force:
		d.say("isolation", "inplace", findingWarning, "this is not a container, and --force will replace the files of this machine%s", because(why))
	default:
		d.say("isolation", "inplace", findingFailed, "%v", inPlaceRefused(why))
	}
}

func (d *doctor) disk() {
	dir := filepath.Dir(d.workDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		d.say("disk", dir, findingFailed, "%v", err)
		return
	}
	free := st.Bavail * uint64(st.Bsize)
	state, hint := findingOK, ""
	if free < littleDisk || st.Files > 0 && st.Ffree < 10000 {
		state, hint = findingWarning, ": images may not fit; choose another place with --work-dir"
	}
	d.say("disk", dir, state, "%s free, %d inodes%s", bytesText(free), st.Ffree, hint)
}

// memory says how much the container may use.
func (d *doctor) memory() {
	limit := d.p.memory
	if limit == 0 {
		d.say("memory", "", findingOK, "no limit")
		return
	}
	state, hint := findingOK, ""
	if limit < littleMemory {
		state, hint = findingWarning, ": the executor itself needs little, but what RUN starts may need more"
	}
	d.say("memory", "", state, "limited to %s%s", bytesText(uint64(limit)), hint)
}

func bytesText(n uint64) string {
	if n >= 10<<30 {
		return fmt.Sprintf("%d GiB", n>>30)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// outputs says whether the files that the flags name can be written.
func (d *doctor) outputs() {
	for _, o := range []struct{ flag, path string }{
		{"--tar-path", d.c.tarPath}, {"--oci-layout-path", d.c.layoutPath}, {"--digest-file", d.c.digestFile},
		{"--image-name-with-digest-file", d.c.nameDigestFile}, {"--image-name-tag-with-digest-file", d.c.nameTagDigestFile}, {"--result-file", d.c.resultFile},
	} {
		if o.path == "" {
			continue
		}
		if _, ok := urlName(o.path); ok && o.flag != "--tar-path" && o.flag != "--oci-layout-path" && o.flag != "--result-file" {
			d.say("output", o.flag, findingSkipped, "it is sent to %s", source.Redact(o.path))
			continue
		}
		if err := writable(o.path); err != nil {
			d.say("output", o.flag, findingFailed, "%v", err)
		} else {
			d.say("output", o.flag, findingOK, "%s can be written", o.path)
		}
	}
}

// writable tells whether a file can be written that may not be there, in a
// directory that may not be there.
func writable(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist) && path != "/":
			path = filepath.Dir(path)
			continue
		case err != nil:
			return err
		case !first && !info.IsDir():
			return fmt.Errorf("%s is not a directory", path)
		}
		mode := uint32(unix.W_OK)
		if info.IsDir() {
			mode |= unix.X_OK
		}
		if err := unix.Access(path, mode); err != nil {
			return &os.PathError{Op: "write", Path: path, Err: err}
		}
		return nil
	}
}

// input fetches the context, reads the Dockerfile and looks for its images.
func (d *doctor) input(ctx context.Context, client *registry.Client) {
	where := source.Redact(d.c.context)
	src, err := d.fetch(ctx)
	if err != nil {
		d.say("context", where, findingFailed, "%v", err)
		return
	}
	defer src.Close()
	detail := "it is there"
	if r := src.Revision.String(); r != "" {
		detail = "fetched " + r
	}
	d.say("context", where, findingOK, "%s", detail)
	name, _, err := d.readDockerfile(ctx, src.Dir)
	if err != nil {
		d.say("Dockerfile", d.c.dockerfile, findingFailed, "%v", err)
		return
	}
	if client == nil {
		return
	}
	imgs := d.newImages(client)
	bases := 0
	imgs.told = func(ref string, digest v1.Hash, err error) {
		if err != nil {
			bases++
			d.say("base image", ref, findingFailed, "%v", err)
			return
		}
		d.say("base image", ref, findingOK, "%s, %s", digest, d.explained(ctx, client, ref))
	}
	p, _, err := d.plan(ctx, src, imgs, nil)
	switch {
	case err != nil && bases > 0:
		d.say("Dockerfile", name, findingSkipped, "its images must be there before it can be read to its end")
	case err != nil:
		d.say("Dockerfile", name, findingFailed, "%v", err)
	default:
		d.say("Dockerfile", name, findingOK, "%d stages to build for %s", len(p.Stages), p.Platform)
		d.named(ctx, p)
	}
}

// named fetches the further contexts that the Dockerfile uses.
func (d *doctor) named(ctx context.Context, p *plan.Plan) {
	if len(p.ContextsUsed()) == 0 {
		return
	}
	named, err := d.fetchContexts(ctx, p)
	if err == nil {
		defer named.close()
	}
	d.result("build contexts", strings.Join(p.ContextsUsed(), ", "), "fetched", err)
}

// explained says which credentials are used for an image or a repository.
func (d *doctor) explained(ctx context.Context, client *registry.Client, ref string) string {
	if strings.HasPrefix(ref, layoutPrefix) {
		return "in a layout on disk"
	}
	return client.Explain(ctx, ref)
}

func (d *doctor) destinations(ctx context.Context, client *registry.Client) {
	for _, dest := range d.c.destinations {
		if d.c.noPush {
			d.say("push", dest, findingSkipped, "--no-push")
			continue
		}
		d.result("push", dest, "allowed, "+d.explained(ctx, client, dest), client.CheckPush(ctx, dest))
	}
}

// caches looks at the places of the layer cache and of base images.
func (d *doctor) caches(ctx context.Context, client *registry.Client) {
	if !d.c.cache {
		return
	}
	repo := d.cacheRepo()
	dir, isDir := strings.CutPrefix(repo, "oci:")
	switch {
	case isDir:
		d.result("cache", dir, "can be written", writable(dir))
	case d.c.noPushCache:
		d.say("cache", repo, findingSkipped, "only read, %s", d.explained(ctx, client, repo))
	default:
		d.result("cache", repo, "allowed, "+d.explained(ctx, client, repo), client.CheckPush(ctx, repo))
	}
	if d.c.cacheDir == "" {
		return
	}
	entries, err := os.ReadDir(d.c.cacheDir)
	n := len(slices.DeleteFunc(entries, func(e os.DirEntry) bool {
		return !strings.HasPrefix(e.Name(), "sha256:") || strings.HasSuffix(e.Name(), ".json")
	}))
	switch {
	case errors.Is(err, os.ErrNotExist):
		d.say("base image cache", d.c.cacheDir, findingSkipped, "there is none")
	case err != nil:
		d.say("base image cache", d.c.cacheDir, findingWarning, "%v", err)
	default:
		d.say("base image cache", d.c.cacheDir, findingOK, "%d images", n)
	}
}
