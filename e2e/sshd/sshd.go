// Package sshd starts OpenSSH's server on a free port of this machine, with keys
// and a configuration of its own, so that fetching over ssh is tested against
// what people run.
package sshd

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/port"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/kilnhook/kiln/e2e/need"
)

// Server is a real sshd that lets in whoever has its key.
type Server struct {
	Addr string // host:port
	User string // to log in as: the one who runs the test
	Dir  string // as ~/.ssh is one: the user's id_ed25519, and known_hosts
	Key  ed25519.PrivateKey
	Bin  string // before the PATH of what it runs
}

// WriteKey writes a private key in OpenSSH's format, locked by the passphrase
// if there is one.
func WriteKey(t testing.TB, path string, key any, passphrase string) ssh.Signer {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// NewKey makes a private key.
func NewKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Start starts a server, which ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	need.Root(t) // it starts the programs of whoever logs in
	sshd := "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		need.Missing(t, "the command "+sshd+" (run .ci/setup)")
	}
	git := need.Command(t, "git")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: port.Free(t), User: me.Username, Dir: t.TempDir(), Key: NewKey(t), Bin: t.TempDir()}
	_, number, _ := net.SplitHostPort(s.Addr)
	etc := t.TempDir()
	mine := WriteKey(t, filepath.Join(s.Dir, "id_ed25519"), s.Key, "")
	host := WriteKey(t, filepath.Join(etc, "host_key"), NewKey(t), "")
	for name, content := range map[string]string{"sshd_config": s.config(number, etc, git), "authorized_keys": string(ssh.MarshalAuthorizedKey(mine.PublicKey()))} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.know(t, host.PublicKey())
	var log bytes.Buffer
	cmd := exec.CommandContext(t.Context(), sshd, "-D", "-e", "-f", filepath.Join(etc, "sshd_config"))
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", log.String())
		}
	})
	for range 100 {
		if conn, err := net.Dial("tcp", s.Addr); err == nil {
			_ = conn.Close()
			return s
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("sshd does not listen")
	return nil
}

// config is the configuration of a server with its keys in etc.
func (s *Server) config(port, etc, git string) string {
	return fmt.Sprintf(`Port %s
ListenAddress 127.0.0.1
HostKey %s/host_key
AuthorizedKeysFile %s/authorized_keys
PidFile none
MaxStartups 1000
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=* PATH=%s:%s:/usr/bin:/bin
`, port, etc, etc, s.Bin, filepath.Dir(git))
}

// know writes known_hosts.
func (s *Server) know(t testing.TB, key ssh.PublicKey) {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.Addr)
	line := fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(key))
	if err := os.WriteFile(filepath.Join(s.Dir, "known_hosts"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Agent starts an agent that has the user's key and returns its socket.
func (s *Server) Agent(t testing.TB) string {
	t.Helper()
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: s.Key}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "agent") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); _ = os.RemoveAll(dir) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keys, conn) }()
		}
	}()
	return filepath.Join(dir, "s")
}
