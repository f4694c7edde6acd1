package plan

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// copying is what the words of a COPY or ADD have in common.
type copying struct {
	name         string // COPY or ADD
	words        instructions.SourcesAndDest
	chown, chmod string
	skip         []string
	link         bool
	parents      bool
}

// copyWords are those words, expanded.
type copyWords struct {
	sources   []string
	files     []File
	placing   Placing
	createdBy string
}

// copy plans a COPY. from is what --from names; nil for the build context.
func (st *stageState) copy(c *instructions.CopyCommand, from *source) (effect, error) {
	w, err := st.copyWords(c, copying{"COPY", c.SourcesAndDest, c.Chown, c.Chmod, c.ExcludePatterns, c.Link, c.Parents})
	if err != nil {
		return effect{}, err
	}
	op := Copy{Placing: w.placing, Files: w.files}
	for _, src := range w.sources {
		switch repo, err := parseRepo(src); {
		case err != nil:
			return effect{}, err
		case repo != nil:
			return effect{}, errors.New("source can't be a git ref for COPY")
		case isURL(src):
			return effect{}, errors.New("source can't be a URL for COPY")
		}
		if !c.Parents {
			op.Paths = append(op.Paths, rootfs.Clean(src))
			continue
		}
		base, pattern, ok := strings.Cut(src, "/./")
		if !ok {
			base, pattern = "", src
		}
		op.Parents = append(op.Parents, rootfs.Clean(base))
		op.Paths = append(op.Paths, rootfs.Clean(pattern))
	}
	if from == nil {
		st.lintIgnored(c, "Copy", cleanAll(w.sources))
		return effect{op: op, createdBy: w.createdBy}, nil
	}
	op.From = planned(from)
	return effect{op: op, createdBy: w.createdBy}, nil
}

func cleanAll(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = rootfs.Clean(w)
	}
	return out
}

// Reads are the paths of the source that are copied from, as patterns.
func (c Copy) Reads() []string {
	if c.Parents == nil {
		return c.Paths
	}
	out := make([]string, len(c.Paths))
	for i, p := range c.Paths {
		out[i] = rootfs.Join(c.Parents[i], p)
	}
	return out
}

// copyWords expands the words in the order in which BuildKit does.
func (st *stageState) copyWords(c instructions.Command, in copying) (w copyWords, err error) {
	chown, err := st.expand(c, in.chown)
	if err != nil {
		return w, err
	}
	chmod, err := st.expand(c, in.chmod)
	if err != nil {
		return w, err
	}
	if w.sources, err = st.expandAll(c, in.words.SourcePaths); err != nil {
		return w, err
	}
	dest, err := st.expand(c, in.words.DestPath)
	if err != nil {
		return w, err
	}
	if w.files, err = st.files(c, in.words.SourceContents); err != nil {
		return w, err
	}
	w.placing = Placing{Dest: destination(st.config.WorkingDir, dest), Chown: chown, Skip: in.skip}
	// BuildKit gives up the independence of a layer for a mode.
	w.placing.Link = in.link && chmod == ""
	if w.placing.Chmod, err = checkMode(chmod); err != nil {
		return w, err
	}
	if err := CheckOwner(chown); err != nil {
		return w, err
	}
	if in.link && ownerByName(chown) {
		return w, fmt.Errorf("--chown=%s cannot be used with --link, which sees no /etc/passwd: give numbers", chown)
	}
	if _, err := dockerfile.NewPatterns(in.skip); err != nil {
		return w, fmt.Errorf("--exclude: %w", err)
	}
	w.createdBy = createdBy(in, w, chmod, dest)
	return w, nil
}

// createdBy is the history entry. BuildKit names only these flags.
func createdBy(in copying, w copyWords, chmod, dest string) string {
	words := []string{in.name}
	if in.parents {
		words = append(words, "--parents")
	}
	if w.placing.Chown != "" {
		words = append(words, "--chown="+w.placing.Chown)
	}
	if chmod != "" {
		words = append(words, "--chmod="+chmod)
	}
	words = append(words, w.sources...)
	for _, f := range in.words.SourceContents {
		words = append(words, "<<"+f.Path)
	}
	return strings.Join(append(words, dest), " ") + " # buildkit"
}

// files expands the heredocs whose delimiter is not quoted. Quotes in them are
// text, and the backslash escapes whatever "# escape" says.
func (st *stageState) files(c instructions.Command, heredocs []instructions.SourceContent) ([]File, error) {
	var out []File
	for _, h := range heredocs {
		f := File{Name: strings.TrimPrefix(path.Clean("/"+h.Path), "/"), Content: h.Data}
		if f.Name == "" || strings.Contains(f.Name, "/") {
			return nil, fmt.Errorf("heredoc %q: its name must be that of a file", h.Path)
		}
		if h.Expand {
			if err := st.b.checkGrowth(h.Data, st.env); err != nil {
				return nil, err
			}
			lex := shell.NewLex('\\')
			lex.SkipProcessQuotes = true
			res, err := lex.ProcessWordWithMatches(h.Data, st.env)
			st.lintUndefined(c, res.Unmatched)
			if err != nil {
				return nil, err
			}
			f.Content = res.Result
		}
		if len(f.Content) > max(maxWord, len(h.Data)) {
			return nil, errLongWord
		}
		out = append(out, f)
	}
	return out, nil
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

// ownerByName reports whether the image's files are needed to know who spec is.
func ownerByName(spec string) bool {
	if spec == "" {
		return false
	}
	user, group, _ := strings.Cut(spec, ":")
	byName := func(id string) bool {
		_, err := strconv.ParseInt(id, 10, 32)
		return err != nil && id != "root"
	}
	return byName(user) || group != "" && byName(group)
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
