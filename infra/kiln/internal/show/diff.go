package show

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/kilnhook/kiln/infra/imagediff"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// Sides are what was compared.
type Sides struct {
	First, Second string     // references
	Was, Is       *api.Build // nil: an image was named
}

// Diff writes in what two images, and the builds that made them, differ, and names
// at most so many files; 0 is all.
func Diff(out io.Writer, s Sides, d imagediff.Diff, files int) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "first\t%s\nsecond\t%s\n", s.First, s.Second)
	if s.Was != nil && s.Is != nil {
		requests(w, *s.Was, *s.Is)
	}
	fmt.Fprintf(w, "size\t%s\n", fromTo(buildlog.Bytes(d.Size.Was), buildlog.Bytes(d.Size.Is))+grown(d.Size.Is-d.Size.Was))
	if len(d.Config) > 0 {
		fmt.Fprintln(w, "\t\nCONFIG\t")
	}
	for _, c := range d.Config {
		fmt.Fprintf(w, "%s\t%s\n", buildlog.Clean(c.Name), fromTo(short(c.Was), short(c.Is)))
	}
	layers(w, d.Layers)
	changes(w, d.Files, files)
	if d.Same() {
		fmt.Fprintln(w, "\t\nconfiguration and files are the same\t")
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write difference: %w", err)
	}
	return nil
}

// fromTo is a value that may have changed.
func fromTo(was, is string) string {
	if was == is {
		return is
	}
	return cmp.Or(was, "(none)") + " → " + cmp.Or(is, "(none)")
}

func grown(n int64) string {
	switch {
	case n > 0:
		return " (+" + buildlog.Bytes(n) + ")"
	case n < 0:
		return " (-" + buildlog.Bytes(-n) + ")"
	}
	return ""
}

// requests writes what differs in what two builds were asked for and stood on.
func requests(w io.Writer, was, is api.Build) {
	line := func(name, a, b string) {
		if a != b {
			fmt.Fprintf(w, "%s\t%s\n", name, fromTo(buildlog.Clean(a), buildlog.Clean(b)))
		}
	}
	a, b := was.Request, is.Request
	line("trigger", a.Trigger, b.Trigger)
	line("from", buildlog.Source(a.Change), buildlog.Source(b.Change))
	line("generation", a.Change.Generation, b.Change.Generation)
	line("dockerfile", a.Dockerfile, b.Dockerfile)
	line("target", a.Target, b.Target)
	for _, k := range slices.Sorted(maps.Keys(merged(a.Args, b.Args))) {
		line("arg "+buildlog.Clean(k), a.Args[k], b.Args[k])
	}
	line("took", took(*was.Result), took(*is.Result))
	bases := [2]map[string]string{{}, {}}
	for i, r := range []api.Build{was, is} {
		for _, base := range r.Result.Bases {
			bases[i][base.Ref] = base.Digest
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(merged(bases[0], bases[1]))) {
		line("base "+buildlog.Clean(ref), bases[0][ref], bases[1][ref])
	}
}

func merged(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, b)
	return out
}

func layers(w io.Writer, all []imagediff.Layer) {
	fmt.Fprintln(w, "\t\nLAYERS\tSIZE\tDIGEST")
	same, size := 0, int64(0)
	for _, l := range all {
		if l.In == imagediff.InBoth {
			same++
			size += l.Size
		}
	}
	if same > 0 {
		fmt.Fprintf(w, "= %d in both\t%s\t\n", same, buildlog.Bytes(size))
	}
	for _, l := range all {
		mark := map[string]string{imagediff.OnlyWas: "-", imagediff.OnlyIs: "+"}[l.In]
		if mark != "" {
			fmt.Fprintf(w, "%s %s\t%s\t%.19s\n", mark, short(l.CreatedBy), buildlog.Bytes(l.Size), l.Digest)
		}
	}
}

func changes(w io.Writer, all []imagediff.Change, most int) {
	if len(all) == 0 {
		return
	}
	count := map[imagediff.Kind]int{}
	var more int64
	for _, c := range all {
		count[c.Kind]++
		more += c.Grown()
	}
	fmt.Fprintf(w, "\t\nFILES: %d added, %d changed, %d removed%s\tSIZE\tWHAT\n", count[imagediff.Added], count[imagediff.Changed], count[imagediff.Removed], grown(more))
	shown := slices.Clone(all)
	if most > 0 && len(shown) > most {
		slices.SortStableFunc(shown, func(a, b imagediff.Change) int {
			return cmp.Compare(max(b.Grown(), -b.Grown()), max(a.Grown(), -a.Grown()))
		})
		shown = shown[:most]
	}
	for _, c := range shown {
		mark := map[imagediff.Kind]string{imagediff.Added: "+", imagediff.Removed: "-", imagediff.Changed: "~"}[c.Kind]
		fmt.Fprintf(w, "%s /%s\t%s\t%s\n", mark, buildlog.Clean(c.Path), sizes(c), what(c))
	}
	if n := len(all) - len(shown); n > 0 {
		fmt.Fprintf(w, "and %d more: --files 0 names all\t\t\n", n)
	}
}

func sizes(c imagediff.Change) string {
	switch c.Kind {
	case imagediff.Added:
		return buildlog.Bytes(c.Is.Size)
	case imagediff.Removed:
		return buildlog.Bytes(c.Was.Size)
	}
	return fromTo(buildlog.Bytes(c.Was.Size), buildlog.Bytes(c.Is.Size))
}

// what differs of a path besides its size.
func what(c imagediff.Change) string {
	if c.Was == nil {
		return c.Is.Type
	}
	if c.Is == nil {
		return c.Was.Type
	}
	var words []string
	add := func(name, was, is string) {
		if was != is {
			words = append(words, name+" "+fromTo(was, is))
		}
	}
	add("type", c.Was.Type, c.Is.Type)
	add("mode", fmt.Sprintf("%04o", c.Was.Mode), fmt.Sprintf("%04o", c.Is.Mode))
	add("owner", fmt.Sprintf("%d:%d", c.Was.UID, c.Was.GID), fmt.Sprintf("%d:%d", c.Is.UID, c.Is.GID))
	add("target", buildlog.Clean(c.Was.Target), buildlog.Clean(c.Is.Target))
	if c.Was.Sum != c.Is.Sum {
		words = append(words, "content")
	}
	return strings.Join(words, ", ")
}
