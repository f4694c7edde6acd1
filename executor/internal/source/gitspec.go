package source

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// gitSpec says which commit of which repository is meant.
type gitSpec struct {
	url    *url.URL // https, http or ssh, without credentials
	user   *url.Userinfo
	path   string // what an ssh server is asked for
	ref    string // branch, tag, "refs/…" or full commit id; "" is HEAD
	commit string // full commit id; "" is what ref points to
	subdir string // "" is the root

	keepDir bool // make .git too
	depth   int  // of the history in .git; 0 is all of it
}

// parseGit parses what stands after "git://": host/path.git, then "#ref" or
// "#ref:directory", then "#commit".
func parseGit(rest, method string) (gitSpec, error) {
	scheme := "https"
	switch method {
	case "", "https":
	case "http":
		scheme = "http"
	default:
		return gitSpec{}, fmt.Errorf("git pull method %q is unknown: use https or http", method)
	}
	repo, fragments, _ := strings.Cut(rest, "#")
	u, err := parseHTTP(scheme, repo)
	if err != nil {
		return gitSpec{}, err
	}
	if strings.Trim(u.Path, "/") == "" {
		return gitSpec{}, errors.New("not a repository: no path follows the host")
	}
	s := gitSpec{url: u, user: u.User}
	u.User = nil
	return s, s.setFragments(fragments)
}

// parseSSHGit parses an ssh URL, or what scp takes, with the same fragments.
func parseSSHGit(raw string) (gitSpec, error) {
	repo, fragments, _ := strings.Cut(raw, "#")
	u, path, err := sshURL(repo)
	if err == nil && u == nil {
		err = errors.New("not an ssh URL")
	}
	if err != nil {
		return gitSpec{}, err
	}
	s := gitSpec{url: u, user: u.User, path: path}
	u.User = nil
	return s, s.setFragments(fragments)
}

// setFragments reads "ref", "ref:directory" and "#commit" after it.
func (s *gitSpec) setFragments(fragments string) (err error) {
	ref, commit, _ := strings.Cut(fragments, "#")
	if s.ref, s.subdir, err = cutSubdir(ref, ""); err != nil {
		return err
	}
	if s.commit, s.subdir, err = cutSubdir(commit, s.subdir); err != nil {
		return err
	}
	if s.commit != "" && !isCommit(s.commit) {
		return fmt.Errorf("commit %q must be a full id of 40 hex digits", s.commit)
	}
	if s.commit == "" && isCommit(s.ref) {
		s.ref, s.commit = "", s.ref
	}
	if err := checkRef(s.ref); err != nil {
		return err
	}
	return nil
}

// cutSubdir cuts "ref:directory".
func cutSubdir(s, subdir string) (string, string, error) {
	ref, sub, ok := strings.Cut(s, ":")
	if !ok {
		return ref, subdir, nil
	}
	clean, err := cleanSubPath(sub)
	if err != nil {
		return "", "", err
	}
	return ref, clean, nil
}

func isCommit(s string) bool {
	return len(s) == 40 && strings.Trim(s, "0123456789abcdef") == ""
}

// checkRef refuses what cannot be the name of a ref, after "git
// check-ref-format".
func checkRef(ref string) error {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`~^?*[\`, r) }
	if strings.IndexFunc(ref, bad) >= 0 || strings.Contains(ref, "..") || strings.Contains(ref, "@{") || strings.HasPrefix(ref, "-") {
		return fmt.Errorf("ref %q is not the name of a branch or a tag", ref)
	}
	return nil
}
