package source

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kilnhook/kiln/e2e/sshd"
)

func sshOptions(t *testing.T, s *sshd.Server) Options {
	return Options{TempDir: t.TempDir(), SSH: SSHOptions{Dirs: []string{filepath.Join(t.TempDir(), "none"), s.Dir}, KnownHosts: []string{"/nowhere"}}}
}

// Over ssh the same is fetched as over https: refs, commits, directories, the
// history for .git, submodules and what is in Git LFS.
func TestGitSSH(t *testing.T) {
	s, g := sshd.Start(t), newGitServer(t)
	first := g.repo("r.git", map[string]string{"f": "first", "sub/f": "first sub"})
	g.git("r.git", "tag", "v1")
	hidden := g.commit("r.git", map[string]string{"f": "hidden"})
	last := g.commit("r.git", map[string]string{"f": "last"})
	g.git("r.git", "update-ref", "refs/pull/7/head", first)
	base := "ssh://" + s.User + "@" + s.Addr + g.root
	for fragment, want := range map[string][2]string{
		"": {"last", last}, "#main": {"last", last}, "#v1": {"first", first}, "#refs/pull/7/head": {"first", first},
		"#" + first: {"first", first}, "#" + hidden: {"hidden", hidden}, "#main:sub": {"first sub", last},
	} {
		c, err := Fetch(t.Context(), base+"/r.git"+fragment, sshOptions(t, s))
		if err != nil {
			t.Errorf("%s: %v", fragment, err)
			continue
		}
		b, _ := os.ReadFile(filepath.Join(c.Dir, "f"))
		if string(b) != want[0] || c.Revision.Commit != want[1] {
			t.Errorf("%s: %q at %s", fragment, b, c.Revision.Commit)
		}
		_ = c.Close()
	}

	opt := sshOptions(t, s)
	opt.SSH = SSHOptions{Agent: s.Agent(t), KnownHosts: []string{filepath.Join(s.Dir, "known_hosts")}}
	c, err := FetchRepository(t.Context(), Repository{URL: base + "/r.git", Commit: last[:7]}, opt)
	if err != nil {
		t.Fatal("with an agent:", err)
	}
	_ = c.Close()

	opt = sshOptions(t, s)
	opt.GitKeepDir = true
	for depth, count := range map[int]string{0: "3", 2: "2"} {
		opt.GitDepth = depth
		if c, err = Fetch(t.Context(), base+"/r.git", opt); err != nil {
			t.Fatal(err)
		}
		clone := &gitServer{t: t, root: c.Dir}
		if got := clone.git(".", "rev-list", "--count", "HEAD"); got != count {
			t.Errorf("depth %d: %s commits", depth, got)
		}
		if got := clone.git(".", "status", "--porcelain"); got != "" {
			t.Errorf("depth %d: %s", depth, got)
		}
		clone.git(".", "fsck", "--full")
		_ = c.Close()
	}
}

// Submodules over ssh are fetched, and large files from where the server says.
func TestGitSSHSubmodulesAndLFS(t *testing.T) {
	s, g := sshd.Start(t), newGitServer(t)
	store := &lfsStore{objects: map[string]string{}}
	g.lfs = store
	g.repo("leaf.git", map[string]string{"f": "leaf"})
	g.repo("top.git", map[string]string{"f": "top", "big": store.put("large")})
	for at, url := range map[string]string{"rel": "../leaf.git", "abs": "ssh://" + s.User + "@" + s.Addr + g.root + "/leaf.git"} {
		g.git("top.git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", filepath.Join(g.root, "leaf.git"), at)
		g.git("top.git", "config", "-f", ".gitmodules", "submodule."+at+".url", url)
	}
	g.commit("top.git", nil)
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1 $2\" = '%s/top.git download' ] || exit 9\nprintf '{\"href\":\"%s/lfs\",\"header\":{\"Authorization\":\"RemoteAuth x\"}}'\n",
		g.root, strings.Replace(g.url, "git://", "http://", 1))
	if err := os.WriteFile(filepath.Join(s.Bin, "git-lfs-authenticate"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	opt := sshOptions(t, s)
	opt.GitSubmodules, opt.GitToken = true, "must not be sent"
	c, err := Fetch(t.Context(), "ssh://"+s.User+"@"+s.Addr+g.root+"/top.git", opt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, want := range map[string]string{"f": "top", "big": "large", "rel/f": "leaf", "abs/f": "leaf"} {
		if b, err := os.ReadFile(filepath.Join(c.Dir, name)); err != nil || string(b) != want {
			t.Errorf("%s = %q, %v", name, b, err)
		}
	}
	if len(store.auth) != 2 || store.auth[0] != "RemoteAuth x" || store.auth[1] != "" {
		t.Errorf("authorization %q", store.auth)
	}
}

// A server that is not known, or shows another key, gets no login; what is
// wrong with a login or a repository is told.
func TestGitSSHErrors(t *testing.T) {
	s, g := sshd.Start(t), newGitServer(t)
	g.repo("r.git", map[string]string{"f": "x"})
	g.repo("empty.git", nil)
	url := "ssh://" + s.User + "@" + s.Addr + g.root
	known, err := os.ReadFile(filepath.Join(s.Dir, "known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	other, _ := ssh.NewPublicKey(sshd.NewKey(t).Public())
	for name, tc := range map[string]struct {
		url  string
		do   func(opt *Options, dir string)
		want string
	}{
		"unknown host": {url + "/r.git", func(o *Options, dir string) { _ = os.Remove(filepath.Join(dir, "known_hosts")) }, "is not known: its key is ssh-ed25519 SHA256:"},
		"other key": {url + "/r.git", func(_ *Options, dir string) {
			line := strings.Fields(string(known))[0] + " " + string(ssh.MarshalAuthorizedKey(other))
			write(t, filepath.Join(dir, "known_hosts"), line)
		}, "and not the one in line 1 of"},
		"no key":        {url + "/r.git", func(_ *Options, dir string) { _ = os.Remove(filepath.Join(dir, "id_ed25519")) }, "let " + s.User + " not in with no key: there is no agent"},
		"wrong key":     {url + "/r.git", func(_ *Options, dir string) { sshd.WriteKey(t, filepath.Join(dir, "id_ed25519"), sshd.NewKey(t), "") }, "not in with "},
		"locked key":    {url + "/r.git", func(_ *Options, dir string) { sshd.WriteKey(t, filepath.Join(dir, "id_ed25519"), s.Key, "hunter2") }, "id_ed25519 (has a passphrase: give it to an agent)"},
		"no agent":      {url + "/r.git", func(o *Options, _ string) { o.SSH.Agent = "/nowhere" }, "ask the ssh agent (SSH_AUTH_SOCK)"},
		"no repository": {url + "/none.git", func(*Options, string) {}, "repository not found; the server says: "},
		"empty":         {url + "/empty.git", func(*Options, string) {}, "the repository is empty"},
		"no ref":        {url + "/r.git#nope", func(*Options, string) {}, `ref "nope" is neither`},
		"nobody":        {"ssh://127.0.0.1:1/r.git", func(*Options, string) {}, "connection refused"},
		"link-local":    {"ssh://169.254.169.254/r.git", func(*Options, string) {}, "link-local addresses are not allowed"},
		"password":      {"ssh://me:hunter2@host/r.git", func(*Options, string) {}, "a password in an ssh URL is not supported"},
		"no path":       {"ssh://host", func(*Options, string) {}, "no path follows the host"},
		"option":        {"ssh://-oProxyCommand=x/r", func(*Options, string) {}, "not a valid ssh URL"},
		"scp":           {"git@127.0.0.1:r.git#a b", func(*Options, string) {}, "is not the name of a branch"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "known_hosts"), string(known))
			sshd.WriteKey(t, filepath.Join(dir, "id_ed25519"), s.Key, "")
			opt := Options{TempDir: t.TempDir(), SSH: SSHOptions{Dirs: []string{dir}}}
			tc.do(&opt, dir)
			_, err := Fetch(t.Context(), tc.url, opt)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error = %v, want %q", err, tc.want)
			}
		})
	}
}

// What ssh and scp take for a repository is understood as they do.
func TestSSHURL(t *testing.T) {
	for raw, want := range map[string]string{
		"ssh://git@h/a/b.git":    "ssh://git@h/a/b.git /a/b.git",
		"ssh://h:2222/~me/r":     "ssh://h:2222/~me/r ~me/r",
		"git@github.com:a/b.git": "ssh://git@github.com/a/b.git a/b.git",
		"me@h:/abs/r":            "ssh://me@h/abs/r /abs/r",
		"https://u@h:1/x":        "<nil> ",
		"./dir@x:y":              "<nil> ",
		"h:path":                 "<nil> ",
	} {
		u, path, err := sshURL(raw)
		got := "<nil> "
		if u != nil {
			got = u.String() + " " + path
		}
		if err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", raw, got, err, want)
		}
	}
}

// A server that hangs up before it has said anything is asked again, and the error of one
// that always does comes after three times.
func TestGitSSHHangsUp(t *testing.T) {
	s, g := sshd.Start(t), newGitServer(t)
	g.repo("r.git", map[string]string{"f": "first"})
	for hangs, fails := range map[int]bool{2: false, 1000: true} {
		asked := filepath.Join(t.TempDir(), "asked")
		program := fmt.Sprintf("#!/bin/sh\necho x >> %s\nif [ $(wc -l < %s) -le %d ]; then exit 0; fi\nexec git upload-pack \"$@\"\n", asked, asked, hangs)
		if err := os.WriteFile(filepath.Join(s.Bin, "git-upload-pack"), []byte(program), 0o755); err != nil {
			t.Fatal(err)
		}
		opt := sshOptions(t, s)
		opt.RetryWait = time.Millisecond
		c, err := Fetch(t.Context(), "ssh://"+s.User+"@"+s.Addr+g.root+"/r.git", opt)
		if (err != nil) != fails {
			t.Errorf("a server that hangs up %d times: %v", hangs, err)
		}
		if err == nil {
			_ = c.Close()
		}
		said, err := os.ReadFile(asked)
		if err != nil || fails && strings.Count(string(said), "x") != 3 {
			t.Errorf("asked %q, %v", said, err)
		}
	}
}

// What a server says is an answer, and not asked for again: it may count attempts.
func TestGitSSHRefuses(t *testing.T) {
	s := sshd.Start(t)
	asked := filepath.Join(t.TempDir(), "asked")
	program := fmt.Sprintf("#!/bin/sh\necho x >> %s\necho 'Unauthorized: this key is of no project' >&2\nexit 1\n", asked)
	if err := os.WriteFile(filepath.Join(s.Bin, "git-upload-pack"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	opt := sshOptions(t, s)
	opt.RetryWait = time.Millisecond
	if _, err := Fetch(t.Context(), "ssh://"+s.User+"@"+s.Addr+"/r.git", opt); err == nil || !strings.Contains(err.Error(), "this key is of no project") {
		t.Errorf("error = %v", err)
	}
	if said, err := os.ReadFile(asked); err != nil || strings.Count(string(said), "x") != 1 {
		t.Errorf("asked %q, %v", said, err)
	}
}
