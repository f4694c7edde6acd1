package compat

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cached makes a context with a COPY and a RUN.
func (k *kit) cached() {
	k.dockerfile("FROM BASE\nCOPY f /f\nRUN echo ran; cat /f > /made", "f", "content")
}

// cacheRows are about the layer cache.
func cacheRows() []row {
	return []row{
		{
			kind: flagKind, name: "--cache", kaniko: "`false`; nothing after a miss is looked for",
			does: "a step that was done before is not done again, its layer comes from the cache", differs: "steps after a miss are still looked for",
			run: func(t *testing.T, k *kit) {
				k.cached()
				k.local().ok().says("ran").hushes("CACHED")
				first := k.pushed("--cache")
				k.build("--destination="+k.repo, "--cache").ok().says("CACHED").hushes(" ran\n")
				equal(t, "layer", k.at(k.repo).manifest().Layers[2].Digest, first.manifest().Layers[2].Digest)
				k.write("ctx/f", "changed")
				k.build("--destination="+k.repo, "--cache").ok().says(" ran\n", "Dockerfile:3: note: not in the cache")
				k.at(k.repo).holds("made", "changed")
			},
		},
		{
			kind: flagKind, name: "--cache-repo", kaniko: "`<destination>/cache`; the forks know `oci:DIR`",
			does: "the repository, or `oci:DIR`, that keeps a tag for each step, and one for each Dockerfile with what its last build used",
			run: func(t *testing.T, k *kit) {
				k.cached()
				k.pushed("--cache")
				equal(t, "tags by default", k.steps(k.repo+"/cache"), 1)
				k.pushed("--cache", "--cache-repo="+k.repo+"/elsewhere")
				for _, tag := range k.tags(k.repo + "/elsewhere") {
					if len(tag) != 64 {
						t.Errorf("tag %q is not a key", tag)
					}
				}
				equal(t, "tags elsewhere", k.steps(k.repo+"/elsewhere"), 1)
				k.local("--cache", "--cache-repo=oci:"+k.path("store")).ok().says(" ran\n")
				k.local("--cache", "--cache-repo=oci:"+k.path("store")).ok().says("CACHED").hushes(" ran\n")
			},
		},
		{
			kind: flagKind, name: "--cache-copy-layers", kaniko: "`false`",
			does: "COPY and ADD are cached too",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM BASE\nCOPY f /f", "f", "content")
				k.pushed("--cache")
				equal(t, "tags", k.steps(k.repo+"/cache"), 0)
				k.pushed("--cache", "--cache-copy-layers")
				equal(t, "tags", k.steps(k.repo+"/cache"), 1)
				k.local("--cache", "--cache-copy-layers", "--cache-repo="+k.repo+"/cache").ok().says("CACHED")
			},
		},
		{
			kind: flagKind, name: "--cache-run-layers", kaniko: "`true`",
			does: "false: RUN is neither looked for nor stored",
			run: func(t *testing.T, k *kit) {
				k.cached()
				k.pushed("--cache", "--cache-run-layers=false")
				equal(t, "tags", k.steps(k.repo+"/cache"), 0)
				k.pushed("--cache")
				k.local("--cache", "--cache-repo="+k.repo+"/cache", "--cache-run-layers=false").ok().says(" ran\n")
			},
		},
		{
			kind: flagKind, name: "--cache-ttl", kaniko: "`336h`, two weeks",
			does: "a Go duration; an entry that is older is a miss that says so, and is stored anew",
			run: func(_ *testing.T, k *kit) {
				k.cached()
				repo := "--cache-repo=" + k.repo + "/cache"
				k.local("--cache", repo).ok()
				k.local("--cache", repo, "--cache-ttl=1ns").ok().says(" ran\n", "expired: made", "entries are good for 1ns")
				k.local("--cache", repo, "--cache-ttl=6h").ok().says("CACHED")
				k.local("--cache-ttl=6").fails("cache-ttl")
			},
		},
		{
			kind: flagKind, name: "--no-push-cache", kaniko: "of the forks: `false`",
			does: "steps are looked for and none is stored",
			run: func(t *testing.T, k *kit) {
				k.cached()
				repo := "--cache-repo=" + k.repo + "/cache"
				k.local("--cache", repo, "--no-push-cache").ok()
				equal(t, "tags", k.steps(k.repo+"/cache"), 0)
				k.local("--cache", repo).ok()
				k.local("--cache", repo, "--no-push-cache").ok().says("CACHED")
			},
		},
		{
			kind: flagKind, name: "--compressed-caching", kaniko: "`true`; false takes less memory",
			does: "layers are never held in memory, with true as with false: the image is the same", differs: "there is nothing to choose",
			run: func(t *testing.T, k *kit) {
				k.dockerfile("FROM scratch\nCOPY big /", "big", compressible())
				equal(t, "digest", k.pushed("--reproducible", "--compressed-caching=false").digest(), k.pushed("--reproducible").digest())
				k.local("--compressed-caching=maybe").fails("compressed-caching")
			},
		},
	}
}

// left are the names in a directory, none if it is not there.
func left(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	check(t, err)
	for i, n := range names {
		names[i] = strings.TrimPrefix(n, dir+string(os.PathSeparator))
	}
	return names
}
