package plan

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// copyWords are the words that COPY and ADD share, expanded.
type copyWords struct {
	sources             []string
	dest                string
	chown, chmod        string
	createdBy, fullDest string
}

// copy plans a COPY. from is what --from names; nil for the build context.
func (st *stageState) copy(c *instructions.CopyCommand, from *source) (effect, error) {
	if err := refuse(map[string]bool{
		"--link": c.Link, "--parents": c.Parents, "--exclude": len(c.ExcludePatterns) > 0,
	}); err != nil {
		return effect{}, err
	}
	w, err := st.copyWords(c, "COPY", c.SourcesAndDest, c.Chown, c.Chmod)
	if err != nil {
		return effect{}, err
	}
	op := Copy{Dest: w.fullDest, Chown: w.chown, Chmod: w.chmod}
	for _, src := range w.sources {
		switch {
		case isGit(src):
			return effect{}, errors.New("source can't be a git ref for COPY")
		case isURL(src):
			return effect{}, errors.New("source can't be a URL for COPY")
		}
		op.Paths = append(op.Paths, rootfs.Clean(src))
	}
	if from == nil {
		st.lintIgnored(c, "Copy", op.Paths)
		return effect{op: op, createdBy: w.createdBy}, nil
	}
	if from.stage != nil {
		n := from.stage.planned
		op.From.Stage = &n
	} else {
		op.From.Image = from.image.ref
		op.From.Digest, op.From.Config = from.image.base.Digest, from.image.base.Config
	}
	return effect{op: op, createdBy: w.createdBy}, nil
}

// add plans an ADD.
func (st *stageState) add(c *instructions.AddCommand) (effect, error) {
	if err := refuse(map[string]bool{
		"--link": c.Link, "--exclude": len(c.ExcludePatterns) > 0, "--checksum": c.Checksum != "",
		"--keep-git-dir": c.KeepGitDir != nil, "--unpack": c.Unpack != nil,
	}); err != nil {
		return effect{}, err
	}
	w, err := st.copyWords(c, "ADD", c.SourcesAndDest, c.Chown, c.Chmod)
	if err != nil {
		return effect{}, err
	}
	op := Add{Dest: w.fullDest, Chown: w.chown, Chmod: w.chmod}
	for _, src := range w.sources {
		switch {
		case isGit(src):
			return effect{}, fmt.Errorf("adding a git repository is not supported yet: %s", src)
		case isURL(src):
			op.URLs = append(op.URLs, src)
		default:
			op.Paths = append(op.Paths, rootfs.Clean(src))
		}
	}
	st.lintIgnored(c, "Add", op.Paths)
	return effect{op: op, createdBy: w.createdBy}, nil
}

// refuse returns an error for the first flag, by name, that is set.
func refuse(flags map[string]bool) error {
	first := ""
	for name, set := range flags {
		if set && (first == "" || name < first) {
			first = name
		}
	}
	if first == "" {
		return nil
	}
	return fmt.Errorf("%s is not supported yet", first)
}

// copyWords expands the words in the order in which BuildKit does.
func (st *stageState) copyWords(c instructions.Command, name string, in instructions.SourcesAndDest, chown, chmod string) (w copyWords, err error) {
	if len(in.SourceContents) > 0 {
		return w, errHeredoc
	}
	if w.chown, err = st.expand(c, chown); err != nil {
		return w, err
	}
	if chmod, err = st.expand(c, chmod); err != nil {
		return w, err
	}
	if w.sources, err = st.expandAll(c, in.SourcePaths); err != nil {
		return w, err
	}
	if w.dest, err = st.expand(c, in.DestPath); err != nil {
		return w, err
	}
	if w.chmod, err = octal(chmod); err != nil {
		return w, err
	}
	if err := CheckOwner(w.chown); err != nil {
		return w, err
	}
	words := []string{name}
	if w.chown != "" {
		words = append(words, "--chown="+w.chown)
	}
	if chmod != "" {
		words = append(words, "--chmod="+chmod)
	}
	words = append(append(words, w.sources...), w.dest)
	w.createdBy = strings.Join(words, " ") + " # buildkit"
	w.fullDest = destination(st.config.WorkingDir, w.dest)
	return w, nil
}

// octal checks a mode and gives it at least four digits.
func octal(mode string) (string, error) {
	if mode == "" {
		return "", nil
	}
	n, err := strconv.ParseUint(mode, 8, 32)
	switch {
	case err == nil && n <= 0o7777:
		return fmt.Sprintf("%04o", n), nil
	case symbolic(mode):
		return "", fmt.Errorf("mode %q: symbolic modes are not supported yet: write an octal one, such as 0755", mode)
	}
	return "", fmt.Errorf("invalid mode %q: it must be octal, from 0 to 07777", mode)
}

// symbolic reports whether a mode is one for chmod(1), such as "u=rwX,go=rX".
func symbolic(mode string) bool {
	ok, err := regexp.MatchString(`^[ugoa]*([-+=]([rwxXst]*|[ugo]))+(,[ugoa]*([-+=]([rwxXst]*|[ugo]))+)*$`, mode)
	return err == nil && ok
}

// CheckOwner reports whether spec is a "user[:group]" as --chown takes it.
// Numbers may be 0 to 2147483647; a name is looked up in the image later.
func CheckOwner(spec string) error {
	user, group, _ := strings.Cut(spec, ":")
	for _, id := range []string{user, group} {
		n, err := strconv.ParseInt(id, 10, 64)
		if err == nil && (n < 0 || n > 1<<31-1) {
			return fmt.Errorf("invalid owner %q: an id is a number from 0 to 2147483647", spec)
		}
		if strings.ContainsAny(id, ":\n") {
			return fmt.Errorf("invalid owner %q: it must be user[:group]", spec)
		}
	}
	return nil
}

// destination is where a COPY to dest writes, seen from the working directory.
// A trailing slash, also as "/." or ".", says that it is a directory.
func destination(workdir, dest string) string {
	dir := dest == "" || dest == "." || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
	if !path.IsAbs(dest) {
		dest = path.Join("/", workdir, dest)
	}
	if dest = path.Clean(dest); dir && dest != "/" {
		dest += "/"
	}
	return dest
}

func isURL(src string) bool {
	return strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")
}

// isGit reports whether a source names a git repository: git:// or ssh://, an
// http(s) URL whose path ends in .git, or user@host:path.
func isGit(src string) bool {
	scheme, _, ok := strings.Cut(src, "://")
	if !ok {
		scp, err := regexp.MatchString(`^[a-zA-Z0-9-_]+@[a-zA-Z0-9-.]+:[^?#]+(\?[^#]*)?(#.*)?$`, src)
		return err == nil && scp
	}
	switch strings.ToLower(scheme) {
	case "git", "ssh":
		return true
	case "http", "https":
		u, err := url.Parse(src)
		return err == nil && strings.HasSuffix(u.Path, ".git")
	}
	return false
}
