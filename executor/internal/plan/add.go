package plan

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// add plans an ADD.
func (st *stageState) add(c *instructions.AddCommand) (effect, error) {
	checksum, err := st.expand(c, c.Checksum)
	if err != nil {
		return effect{}, err
	}
	w, err := st.copyWords(c, copying{"ADD", c.SourcesAndDest, c.Chown, c.Chmod, c.ExcludePatterns, c.Link, false})
	if err != nil {
		return effect{}, err
	}
	if checksum != "" && len(w.sources) != 1 {
		return effect{}, errors.New("checksum can't be specified for multiple sources")
	}
	op := Add{Placing: w.placing, Files: w.files, Unpack: c.Unpack}
	for _, src := range w.sources {
		repo, err := parseRepo(src)
		switch {
		case err != nil:
			return effect{}, err
		case repo != nil:
			if err := repo.setFlags(c.KeepGitDir, checksum); err != nil {
				return effect{}, err
			}
			op.Repos = append(op.Repos, repo.Repo)
		case isURL(src):
			if op.Checksum, err = checkDigest(checksum); err != nil {
				return effect{}, err
			}
			op.URLs = append(op.URLs, src)
		case checksum != "":
			return effect{}, errors.New("checksum requires HTTP(S) or Git sources")
		default:
			op.Paths = append(op.Paths, rootfs.Clean(src))
		}
	}
	st.lintIgnored(c, "Add", op.Paths)
	return effect{op: op, createdBy: w.createdBy}, nil
}

// checkDigest checks the value of --checksum for a URL.
func checkDigest(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("--checksum=%s: want sha256: and 64 hex digits: %w", s, err)
	}
	return d.String(), nil
}

func isURL(src string) bool {
	return strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")
}

// repoRef is a repository as a source names it.
type repoRef struct {
	Repo
	keepGitDir    *bool // as its URL says
	fetchByCommit bool
}

// ParseRepo reads the name of a repository as ADD takes it: a URL whose path
// ends in .git, with "#ref:directory" or a query, git:// and ssh:// URLs and
// user@host:path. It returns nil if the source is none. The git protocol is an
// error.
func ParseRepo(src string) (*Repo, error) {
	r, err := parseRepo(src)
	if err != nil || r == nil {
		return nil, err
	}
	if err := r.setFlags(nil, ""); err != nil {
		return nil, err
	}
	return &r.Repo, nil
}

func parseRepo(src string) (*repoRef, error) {
	ref, isGit, err := dfgitutil.ParseGitRef(src)
	switch {
	case err != nil && isGit:
		return nil, fmt.Errorf("%s: %w", src, err)
	case err != nil || ref.IndistinguishableFromLocal:
		return nil, nil //nolint:nilerr // not a repository
	}
	r := &repoRef{keepGitDir: ref.KeepGitDir, fetchByCommit: ref.FetchByCommit}
	r.Repo = Repo{URL: ref.Remote, Ref: ref.Ref, Commit: strings.ToLower(ref.Checksum)}
	if sub := path.Clean("/" + ref.SubDir); sub != "/" {
		r.Subdir = sub[1:]
	}
	r.Submodules = ref.Submodules == nil || *ref.Submodules
	return r, nil
}

// setFlags merges what the instruction says with what the URL does.
func (r *repoRef) setFlags(keepGitDir *bool, checksum string) error {
	if keepGitDir != nil && r.keepGitDir != nil && *keepGitDir != *r.keepGitDir {
		return errors.New("inconsistent keep-git-dir configuration")
	}
	for _, keep := range []*bool{keepGitDir, r.keepGitDir} {
		r.KeepGitDir = r.KeepGitDir || keep != nil && *keep
	}
	checksum = strings.ToLower(checksum)
	if checksum != "" && r.Commit != "" && checksum != r.Commit {
		return fmt.Errorf("checksum mismatch %q != %q", checksum, r.Commit)
	}
	if checksum != "" {
		r.Commit = checksum
	}
	if ok, err := regexp.MatchString(`^[a-f0-9]*$`, r.Commit); err != nil || !ok {
		return fmt.Errorf("invalid checksum %s for a repository: it is the commit's id in hex", r.Commit)
	}
	if len(r.Commit) == 64 || len(r.Ref) == 64 && isHex(r.Ref) {
		return errors.New("repositories with SHA-256 ids are not supported")
	}
	if r.fetchByCommit {
		if len(r.Commit) != 40 {
			return fmt.Errorf("fetch-by-commit requires a full commit SHA checksum, got %q", r.Commit)
		}
		r.Ref = r.Commit
	}
	return r.checkTransport()
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// checkTransport refuses what cannot be fetched: anything but https, http, ssh
// and user@host:path.
func (r *repoRef) checkTransport() error {
	u, err := url.Parse(r.URL)
	if err == nil && u.Scheme == "git" {
		return errors.New("repositories cannot be fetched over the git protocol: write an https:// URL")
	}
	return nil
}
