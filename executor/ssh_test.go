package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/e2e/sshd"
)

// The scripts in testdata/ssh fetch over ssh: from the server at $SSH, a
// "user@host:port", whose repositories are below $WORK/git; $AGENT is the socket
// of an agent with a key that it lets in, and $KEYS a directory with that key
// and the server's.
func TestSSHScripts(t *testing.T) {
	need.Command(t, "git")
	server := sshd.Start(t)
	agent := server.Agent(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/ssh",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SSH", server.User+"@"+server.Addr)
			env.Setenv("AGENT", agent)
			env.Setenv("KEYS", server.Dir)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("KANIKO_DIR", filepath.Join(env.WorkDir, "kaniko"))
			return os.MkdirAll(filepath.Join(env.WorkDir, "kaniko"), 0o755)
		},
	})
}
