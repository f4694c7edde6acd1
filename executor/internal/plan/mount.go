package plan

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// MountType is the kind of a Mount.
type MountType string

// The kinds of mounts that a Dockerfile may ask for, and the one that a heredoc
// with a "#!" becomes.
const (
	MountBind   MountType = "bind"
	MountCache  MountType = "cache"
	MountTmpfs  MountType = "tmpfs"
	MountSecret MountType = "secret"
	MountSSH    MountType = "ssh"
	MountScript MountType = "script"
)

// Mount is something that the process of a Run sees and that is never part of
// a layer. What it holds is not part of the plan, but for a script's Text.
type Mount struct {
	Type     MountType
	Target   string `json:",omitempty"` // absolute and clean; "" for a secret that is a variable only
	From     Source `json:"-"`          // bind: what Source is in; cache: what it is filled with at first, if it is not the context
	Source   string `json:",omitempty"` // bind, cache: clean name in From; "." is the root
	ReadOnly bool   `json:",omitempty"` // bind, cache, tmpfs; what is written to a bind is discarded in any case
	ID       string `json:",omitempty"` // cache, secret, ssh
	Sharing  string `json:",omitempty"` // cache: "shared", "private" or "locked"
	Required bool   `json:",omitempty"` // secret, ssh: without it the RUN fails
	Env      string `json:",omitempty"` // secret: variable that has its value; "" for none
	Size     int64  `json:",omitempty"` // tmpfs: bytes; 0 is the kernel's default
	Mode     uint32 `json:",omitempty"` // cache, secret, ssh, script: permission bits
	UID, GID int    `json:",omitempty"` // cache, secret, ssh
	Text     string `json:",omitempty"` // script
}

// mountsFrom are the from keys of a RUN's mounts; "" for a mount without one.
func (c command) mountsFrom() []string {
	run, ok := c.Command.(*instructions.RunCommand)
	if !ok {
		return nil
	}
	var out []string
	for _, m := range instructions.GetMounts(run) {
		out = append(out, m.From)
	}
	return out
}

// mountSource resolves the from key of a mount in a stage that is needed. It is
// a name, never a number.
func (b *builder) mountSource(s *stage, from string) (*source, error) {
	dep := b.byName[strings.ToLower(from)]
	switch {
	case dep == s:
		return nil, fmt.Errorf("a stage cannot mount from itself: from=%s", from)
	case dep != nil && dep.index > s.index:
		return nil, fmt.Errorf("cannot mount from stage %q: it is defined later, on line %d", from, b.file.Pos(dep.def.Location).Line)
	case dep != nil && dep.replaced && dep.files != "":
		return &source{context: dep.files}, nil
	case dep != nil:
		return &source{stage: dep}, nil
	case from == scratch:
		return &source{}, nil
	}
	if name, nc, ok := b.namedContext(from, b.platform); ok {
		switch nc.Image {
		case "":
			return &source{context: name}, nil
		case scratch:
			return &source{}, nil
		}
		from = nc.Image
	}
	if _, err := reference.ParseNormalizedNamed(from); err != nil {
		return nil, fmt.Errorf("from=%s is neither a stage nor an image name: %w", from, err)
	}
	return &source{image: b.wantImage(from, b.platform)}, nil
}

// mounts plans the mounts of a RUN, in BuildKit's order: by target, secrets and
// sockets last.
func (st *stageState) mounts(c *instructions.RunCommand, from []*source) ([]Mount, error) {
	if len(instructions.GetMounts(c)) == 0 {
		return nil, nil
	}
	if err := c.Expand(func(word string) (string, error) { return st.expand(c, word) }); err != nil {
		return nil, err
	}
	var out []Mount
	sockets := 0
	for i, in := range instructions.GetMounts(c) {
		m, err := st.mount(in, from[i], sockets)
		if err != nil {
			return nil, fmt.Errorf("--mount=type=%s: %w", in.Type, err)
		}
		if m.Type == MountSSH {
			sockets++
		}
		out = append(out, m)
	}
	late := map[MountType]int{MountSecret: 1, MountSSH: 2}
	slices.SortStableFunc(out, func(a, b Mount) int {
		if a, b := late[a.Type], late[b.Type]; a != 0 || b != 0 {
			return cmp.Compare(a, b)
		}
		return cmp.Compare(a.Target, b.Target)
	})
	return out, nil
}

func (st *stageState) mount(in *instructions.Mount, from *source, sockets int) (m Mount, err error) {
	m = Mount{Type: MountType(in.Type), ReadOnly: in.ReadOnly, ID: in.CacheID, Required: in.Required}
	if in.UID != nil {
		m.UID = int(*in.UID)
	}
	if in.GID != nil {
		m.GID = int(*in.GID)
	}
	if in.Env != nil && m.Type != MountSecret {
		return m, errors.New("only a secret has env")
	}
	switch m.Type {
	case MountSecret:
		return m, m.secret(in, st.config.WorkingDir)
	case MountSSH:
		return m, m.ssh(in, st.config.WorkingDir, sockets)
	case MountTmpfs:
		if in.From != "" || in.Source != "" {
			return m, errors.New("it is empty at first and takes neither from nor source")
		}
		m.ID, m.Size = "", in.SizeLimit
	case MountBind:
		m.ID = ""
		m.Source, m.From = rootfs.Clean(in.Source), planned(from)
	case MountCache:
		m.Source, m.From = rootfs.Clean(in.Source), planned(from)
		m.cache(in)
		if ns := st.b.opt.Args["BUILDKIT_CACHE_MOUNT_NS"]; ns != "" {
			m.ID = ns + "/" + m.ID
		}
	default:
		return m, errors.New("it is not supported yet")
	}
	m.Target, err = mountTarget(st.config.WorkingDir, in.Target)
	return m, err
}

// mountTarget is where a mount is, seen from the working directory.
func mountTarget(workdir, target string) (string, error) {
	if !path.IsAbs(path.Clean(target)) {
		target = path.Join("/", workdir, target)
	}
	if target = path.Clean(target); target == "/" {
		return "", fmt.Errorf("invalid mount target %q", target)
	}
	return target, nil
}

// planned is a source as a value. Without one it is the build context.
func planned(from *source) Source {
	switch {
	case from == nil:
		return Source{}
	case from.stage != nil:
		n := from.stage.planned
		return Source{Stage: &n}
	case from.context != "":
		return Source{Context: from.context}
	case from.image != nil:
		return Source{Image: from.image.ref, Digest: from.image.base.Digest, Config: from.image.base.Config}
	}
	return Scratch()
}

// Scratch is the empty image as a source.
func Scratch() Source { return Source{Image: scratch} }

// IsScratch reports whether the source is the empty image.
func (s Source) IsScratch() bool { return s.Stage == nil && s.Image == scratch }

// cache fills in what is said of a cache's directory. Its owner and mode count
// for a new one only, and for none that is a part of something else.
func (m *Mount) cache(in *instructions.Mount) {
	m.ID = cmp.Or(m.ID, path.Clean(in.Target))
	m.Sharing = cmp.Or(string(in.CacheSharing), string(instructions.MountSharingShared))
	if m.Source != "." {
		m.UID, m.GID = 0, 0
		return
	}
	m.Mode = modeOf(in, 0o755)
}

func (m *Mount) secret(in *instructions.Mount, workdir string) (err error) {
	m.ID = cmp.Or(in.Source, in.CacheID)
	if m.ID == "" {
		m.ID = path.Base(in.Target)
	}
	m.Target, m.ReadOnly = in.Target, true
	if in.Env != nil {
		if m.Env = *in.Env; m.Env == "" || strings.ContainsAny(m.Env, "=\x00") {
			return fmt.Errorf("%q cannot be the name of a variable", m.Env)
		}
	} else if m.Target == "" {
		m.Target = "/run/secrets/" + path.Base(m.ID)
	}
	if m.Target == "" {
		return nil
	}
	m.Mode = modeOf(in, 0o400)
	m.Target, err = mountTarget(workdir, m.Target)
	return err
}

func (m *Mount) ssh(in *instructions.Mount, workdir string, n int) (err error) {
	switch {
	case in.Source != "":
		return errors.New("ssh does not support source")
	case in.From != "":
		return errors.New("ssh does not support from")
	}
	m.ID, m.ReadOnly = cmp.Or(m.ID, "default"), false
	m.Mode = modeOf(in, 0o600)
	m.Target, err = mountTarget(workdir, cmp.Or(in.Target, fmt.Sprintf("/run/buildkit/ssh_agent.%d", n)))
	return err
}

func modeOf(in *instructions.Mount, otherwise uint32) uint32 {
	if in.Mode == nil {
		return otherwise
	}
	return uint32(*in.Mode) & 0o777
}

// String returns the mount as text.
func (m Mount) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "mount %s", m.Type)
	text := func(name, value string, set bool) {
		if set {
			fmt.Fprintf(&b, " %s %q", name, value)
		}
	}
	text("id", m.ID, m.ID != "")
	if m.Type == MountBind || m.Type == MountCache && !m.From.IsContext() {
		fmt.Fprintf(&b, " from %s", cmp.Or(m.From.String(), "context"))
	}
	text("source", m.Source, m.Source != "" && m.Source != ".")
	text("at", m.Target, m.Target != "")
	text("env", m.Env, m.Env != "")
	text("text", m.Text, m.Text != "")
	if m.Sharing != "" {
		b.WriteString(" " + m.Sharing)
	}
	if m.ReadOnly && m.Type != MountSecret && m.Type != MountScript {
		b.WriteString(" read-only")
	}
	if m.Required {
		b.WriteString(" required")
	}
	if m.Size > 0 {
		fmt.Fprintf(&b, " size %d", m.Size)
	}
	if m.Mode != 0 {
		fmt.Fprintf(&b, " mode %04o owner %d:%d", m.Mode, m.UID, m.GID)
	}
	return b.String()
}
