package conformance

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
)

// wantArch is the architecture that the expectations are written on.
const wantArch = "amd64"

// configOf describes an image's config as ".want/config" holds it. The history
// is what BuildKit adds to that of the base.
func configOf(img v1.Image) (string, error) {
	raw, err := img.RawConfigFile()
	if err != nil {
		return "", err
	}
	var file struct {
		OS, Architecture, Variant, Author string
		Config                            map[string]any
		History                           []v1.History
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return "", fmt.Errorf("parse config: %w", err)
	}
	out := struct {
		Platform string         `json:"platform"`
		Author   string         `json:"author,omitempty"`
		Config   map[string]any `json:"config"`
		History  []string       `json:"history"`
	}{Platform: strings.TrimSuffix(file.OS+"/"+file.Architecture+"/"+file.Variant, "/"), Author: file.Author, Config: file.Config, History: []string{}}
	for _, h := range file.History {
		if !strings.HasPrefix(h.Comment, "buildkit.") {
			continue
		}
		line := h.CreatedBy
		if h.EmptyLayer {
			line += " (no layer)"
		}
		out.History = append(out.History, line)
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(out); err != nil {
		return "", err
	}
	return text.String(), nil
}

// treeOf describes every path that is not as in the base as ".want/tree" does.
func treeOf(t *compare.Tree, mtimes []string) string {
	var out strings.Builder
	for _, c := range t.Changes() {
		out.WriteString(quote(c.Path) + " " + describe(c, mtimes) + "\n")
	}
	return out.String()
}

func describe(c compare.Change, mtimes []string) string {
	f := c.File
	if f == nil {
		return "gone"
	}
	words := []string{string(f.Type), fmt.Sprintf("%04o %d:%d", f.Mode, f.UID, f.GID)}
	switch f.Type {
	case compare.Regular:
		words = append(words, fmt.Sprintf("%d %s", f.Size, f.SHA256[:12]))
	case compare.Symlink:
		words[1] = fmt.Sprintf("%d:%d -> %s", f.UID, f.GID, quote(f.Target))
	case compare.Char, compare.Block:
		words = append(words, fmt.Sprintf("%d,%d", f.Major, f.Minor))
	case compare.Directory, compare.FIFO:
	}
	for _, name := range slices.Sorted(maps.Keys(f.Xattrs)) {
		words = append(words, name+"=0x"+hex.EncodeToString([]byte(f.Xattrs[name])))
	}
	if timed(c.Path, mtimes) {
		words = append(words, f.ModTime.UTC().Format("2006-01-02T15:04:05Z"))
	}
	for _, n := range c.Names {
		if n != c.Path {
			words = append(words, "= "+quote(n))
		}
	}
	return strings.Join(words, " ")
}

// quote shows a name as it is unless a reader could take it for something else.
func quote(name string) string {
	if q := fmt.Sprintf("%+q", name); q != `"`+name+`"` || strings.ContainsAny(name, " ") || len(name) > 120 {
		if len(q) > 120 {
			return fmt.Sprintf("%s…%d bytes", q[:100], len(name))
		}
		return q
	}
	return name
}

// timed says whether the time of a path counts.
func timed(where string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, where)
		return ok && err == nil
	})
}
