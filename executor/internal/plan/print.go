package plan

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// String returns the plan as text: every stage with its steps, what each does
// and what the history will say of it, then the config of the image. It names
// proxy arguments without their values; other build arguments are shown, since
// the image's history shows them too.
func (p *Plan) String() string {
	var b strings.Builder
	for n := range p.Stages {
		p.Stages[n].print(&b, n)
	}
	fmt.Fprintf(&b, "image %s\n", platformName(p.Platform))
	if p.Epoch != nil {
		fmt.Fprintf(&b, "  epoch %s\n", p.Epoch.Format(time.RFC3339))
	}
	p.Final().End().print(&b)
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	return b.String()
}

func (s *Stage) print(b *strings.Builder, n int) {
	fmt.Fprintf(b, "stage %d", n)
	if s.Name != "" {
		fmt.Fprintf(b, " %s", s.Name)
	}
	fmt.Fprintf(b, " from %s for %s # %s\n", s.Base, platformName(s.Platform), s.Pos)
	for _, step := range s.Steps {
		fmt.Fprintf(b, "  %s: %s\n", step.Pos, quoteLines(step.Text))
		if step.Op != nil {
			fmt.Fprintf(b, "    %s\n", step.Op)
		}
		switch {
		case step.CreatedBy == "":
		case step.Op == nil:
			fmt.Fprintf(b, "    history, no layer: %s\n", quoteLines(step.CreatedBy))
		default:
			fmt.Fprintf(b, "    history: %s\n", quoteLines(step.CreatedBy))
		}
	}
}

// String returns the base as text.
func (b Base) String() string {
	if b.Stage != nil {
		return fmt.Sprintf("stage %d", *b.Stage)
	}
	if b.Digest == (v1.Hash{}) {
		return b.Ref
	}
	return b.Ref + " " + b.Digest.String()
}

// quoteLines keeps text on one line.
func quoteLines(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func (s State) print(b *strings.Builder) {
	c := s.Config
	field := func(name string, value any, set bool) {
		if set {
			fmt.Fprintf(b, "  %s %v\n", name, value)
		}
	}
	field("author", quoteLines(s.Author), s.Author != "")
	for _, kv := range c.Env {
		field("env", quoteLines(kv), true)
	}
	field("workdir", quoteLines(c.WorkingDir), c.WorkingDir != "")
	field("user", quoteLines(c.User), c.User != "")
	field("entrypoint", fmt.Sprintf("%q", c.Entrypoint), len(c.Entrypoint) > 0)
	field("cmd", fmt.Sprintf("%q", c.Cmd), len(c.Cmd) > 0)
	field("shell", fmt.Sprintf("%q", c.Shell), len(c.Shell) > 0)
	field("stop signal", c.StopSignal, c.StopSignal != "")
	for _, k := range slices.Sorted(maps.Keys(c.ExposedPorts)) {
		field("port", k, true)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Volumes)) {
		field("volume", quoteLines(k), true)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		field("label", quoteLines(k+"="+c.Labels[k]), true)
	}
	if h := c.Healthcheck; h != nil {
		field("health check", fmt.Sprintf("%q interval %v timeout %v start period %v start interval %v retries %d",
			h.Test, h.Interval, h.Timeout, h.StartPeriod, s.StartInterval, h.Retries), true)
	}
	for _, t := range c.OnBuild {
		field("on build", quoteLines(t), true)
	}
}

// String returns the source as text; "" for the build context.
func (s Source) String() string {
	switch {
	case s.Stage != nil:
		return fmt.Sprintf("stage %d", *s.Stage)
	case s.Context != "":
		return "context " + strconv.Quote(s.Context)
	case s.Image != "" && s.Digest != (v1.Hash{}):
		return s.Image + " " + s.Digest.String()
	}
	return s.Image
}

// String returns the operation as one line.
func (c Copy) String() string {
	words := []string{"copy"}
	if !c.From.IsContext() {
		words = append(words, "from", c.From.String())
	}
	for i, p := range c.Paths {
		if c.Parents != nil {
			p = c.Parents[i] + "/./" + p
		}
		words = append(words, strconv.Quote(p))
	}
	words = append(words, fileWords(c.Files)...)
	if c.Parents != nil {
		words = append(words, "with parents")
	}
	return strings.Join(words, " ") + c.Placing.String()
}

// String returns the operation as one line. Of a repository's URL it shows no
// credentials.
func (a Add) String() string {
	words := append([]string{"add"}, quoted(a.Paths)...)
	words = append(words, quoted(a.URLs)...)
	for _, r := range a.Repos {
		words = append(words, r.String())
	}
	words = append(words, fileWords(a.Files)...)
	if a.Checksum != "" {
		words = append(words, "checksum", a.Checksum)
	}
	if a.Unpack != nil {
		words = append(words, "unpack", strconv.FormatBool(*a.Unpack))
	}
	return strings.Join(words, " ") + a.Placing.String()
}

// String returns the repository as text, without credentials.
func (r Repo) String() string {
	shown := r.URL
	if u, err := url.Parse(r.URL); err == nil {
		u.User = nil
		shown = u.String()
	}
	s := "git " + strconv.Quote(shown)
	for _, f := range [][2]string{{"ref", r.Ref}, {"commit", r.Commit}, {"directory", r.Subdir}} {
		if f[1] != "" {
			s += fmt.Sprintf(" %s %q", f[0], f[1])
		}
	}
	if r.KeepGitDir {
		s += " with .git"
	}
	if r.Submodules {
		s += " with submodules"
	}
	return s
}

// String returns where copies go and what becomes of them.
func (p Placing) String() string {
	s := fmt.Sprintf(" to %q", p.Dest)
	if p.Chown != "" {
		s += fmt.Sprintf(" owner %q", p.Chown)
	}
	if p.Chmod != "" {
		s += " mode " + p.Chmod
	}
	if len(p.Skip) > 0 {
		s += " without " + quoteAll(p.Skip)
	}
	if p.Link {
		s += " as a layer of its own"
	}
	return s
}

// fileWords shows files by their content's hash, so that the line stays short
// and differs where the files do.
func fileWords(files []File) []string {
	out := make([]string, len(files))
	for i, f := range files {
		sum := sha256.Sum256([]byte(f.Content))
		out[i] = fmt.Sprintf("<<%q %d bytes %x", f.Name, len(f.Content), sum[:6])
	}
	return out
}

// String returns the operation as one line.
func (r Run) String() string {
	s := fmt.Sprintf("run %s in %q", quoteAll(r.Args), r.Dir)
	if r.User != "" {
		s += fmt.Sprintf(" as %q", r.User)
	}
	s += " with " + quoteAll(r.Env)
	if len(r.Proxy) > 0 {
		s += " proxy"
		for _, kv := range r.Proxy {
			name, _, _ := strings.Cut(kv, "=")
			s += " " + name
		}
	}
	if r.Network != "" {
		s += " network " + r.Network
	}
	if r.Hostname != "" {
		s += fmt.Sprintf(" on %q", r.Hostname)
	}
	for _, m := range r.Mounts {
		s += " " + m.String()
	}
	return s
}

// String returns the operation as one line.
func (w Workdir) String() string {
	s := fmt.Sprintf("workdir %q", w.Path)
	if w.User != "" {
		s += fmt.Sprintf(" as %q", w.User)
	}
	return s
}

func quoteAll(words []string) string { return strings.Join(quoted(words), " ") }

func quoted(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = strconv.Quote(w)
	}
	return out
}
