package source

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/index"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// writeGitDir makes ".git" as a clone of one commit has it: the pack as it
// came, an index of the files, HEAD at the commit, and origin without
// credentials. The files in entries are what is checked out.
func (g *gitFetch) writeGitDir(r *gitRemote, spec gitSpec, c *object.Commit, entries []*index.Entry) error {
	when := c.Committer.When
	var idx, files bytes.Buffer
	sum, err := r.pack.writeIndex(&idx)
	if err != nil {
		return fmt.Errorf("index the pack: %w", err)
	}
	slices.SortFunc(entries, func(a, b *index.Entry) int { return cmp.Compare(a.Name, b.Name) })
	if err := index.NewEncoder(&files).Encode(&index.Index{Version: 2, Entries: entries}); err != nil {
		return fmt.Errorf("write the index of files: %w", err)
	}
	text := map[string]string{
		"HEAD":   c.Hash.String() + "\n",
		"config": gitConfig(spec.url),
	}
	for _, h := range r.shallow {
		text["shallow"] += h.String() + "\n"
	}
	if name := r.refName(spec.ref); name != "" {
		text[name] = c.Hash.String() + "\n"
	}
	for _, dir := range []string{"", "/objects", "/objects/pack", "/objects/info", "/refs", "/refs/heads", "/refs/tags"} {
		if err := g.tree.mkdir(".git"+dir, 0o755, when); err != nil {
			return writeFailed(g.dir, err)
		}
	}
	write := func(name string, content io.Reader) error {
		if err := g.tree.file(".git/"+name, 0o644, when, content); err != nil {
			return writeFailed(g.dir, err)
		}
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(text)) {
		if err := write(name, strings.NewReader(text[name])); err != nil {
			return err
		}
	}
	if err := write("index", &files); err != nil {
		return err
	}
	if err := write("objects/pack/pack-"+sum.String()+".idx", &idx); err != nil {
		return err
	}
	if _, err := r.pack.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return write("objects/pack/pack-"+sum.String()+".pack", bufio.NewReader(r.pack.file))
}

func gitConfig(origin *url.URL) string {
	shown := *origin
	shown.User = nil
	return "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n" +
		"[remote \"origin\"]\n\turl = " + shown.String() + "\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
}

// refName is the full name of a ref that the server has; "" if it is none or
// a place outside of refs.
func (r *gitRemote) refName(ref string) string {
	for _, name := range []string{"refs/heads/" + ref, "refs/tags/" + ref, ref} {
		if _, ok := r.refs.References[name]; ok && ref != "" && plumbing.ReferenceName(name).Validate() == nil && strings.HasPrefix(name, "refs/") {
			return name
		}
	}
	return ""
}

// writeIndex writes what Git keeps beside a pack to find objects in it, and
// returns the pack's own checksum.
func (p *pack) writeIndex(w io.Writer) (plumbing.Hash, error) {
	size, err := p.file.Seek(0, io.SeekEnd)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	end := size - int64(len(plumbing.ZeroHash))
	var sum plumbing.Hash
	if _, err := p.file.ReadAt(sum[:], end); err != nil {
		return sum, err
	}
	offsets := slices.Sorted(maps.Keys(p.byOffset))
	crcs := make(map[int64]uint32, len(offsets))
	for n, at := range offsets {
		next := end
		if n+1 < len(offsets) {
			next = offsets[n+1]
		}
		h := crc32.NewIEEE()
		if _, err := io.Copy(h, io.NewSectionReader(p.file, at, next-at)); err != nil {
			return sum, err
		}
		crcs[at] = h.Sum32()
	}
	x := &idxfile.Writer{}
	for h, i := range p.byHash {
		at := p.objects[i].offset
		x.Add(h, uint64(at), crcs[at])
	}
	if err := x.OnFooter(sum); err != nil {
		return sum, err
	}
	idx, err := x.Index()
	if err != nil {
		return sum, err
	}
	_, err = idxfile.NewEncoder(w).Encode(idx)
	return sum, err
}

// indexEntry is a file in the index. Without times Git looks at the file itself.
func indexEntry(name string, e object.TreeEntry) *index.Entry {
	return &index.Entry{Name: name, Hash: e.Hash, Mode: e.Mode, ModifiedAt: time.Time{}}
}
