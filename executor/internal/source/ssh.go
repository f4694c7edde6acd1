package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/kilnhook/kiln/executor/internal/transport"
)

// SSHOptions say how to log in to Git servers over ssh. The zero value has no
// keys and knows no hosts.
type SSHOptions struct {
	// Agent is the socket of an agent, whose keys are tried first; "": none.
	Agent string
	// Dirs are directories as ~/.ssh is one: id_ed25519, id_ecdsa and id_rsa
	// are keys, and known_hosts says what the keys of servers are.
	Dirs []string
	// KnownHosts are further files like known_hosts. Files that are not there
	// do not count.
	KnownHosts []string
}

// sshHandshake is how long logging in may take.
const sshHandshake = 30 * time.Second

// sshURL parses "ssh://[user@]host[:port]/path" and "[user@]host:path". The
// path is what the server is asked for. It returns nil for other forms.
func sshURL(raw string) (u *url.URL, path string, err error) {
	if strings.HasPrefix(raw, "ssh://") {
		if u, err = url.Parse(raw); err != nil || u.Hostname() == "" {
			return nil, "", errors.New("not a valid ssh URL")
		}
		if path = u.Path; strings.HasPrefix(path, "/~") {
			path = path[1:]
		}
	} else {
		if !isSCP(raw) {
			return nil, "", nil
		}
		where, rest, _ := strings.Cut(raw, ":")
		user, host, ok := strings.Cut(where, "@")
		if !ok {
			user, host = "", where
		}
		u, path = &url.URL{Scheme: "ssh", Host: host, Path: "/" + strings.TrimPrefix(rest, "/")}, rest
		if user != "" {
			u.User = url.User(user)
		}
	}
	u.RawQuery, u.Fragment, u.RawFragment = "", "", ""
	_, password := u.User.Password()
	switch {
	case password:
		return nil, "", errors.New("a password in an ssh URL is not supported: use a key or an agent")
	case strings.Trim(path, "/~") == "":
		return nil, "", errors.New("not a repository: no path follows the host")
	case strings.HasPrefix(path, "-") || strings.HasPrefix(u.Host, "-") || strings.ContainsAny(path, "\x00\r\n"):
		return nil, "", errors.New("not a valid ssh URL")
	}
	return u, path, nil
}

// isSCP tells whether raw is written as scp writes it, with a user: me@host:path.
func isSCP(raw string) bool {
	where, path, ok := strings.Cut(raw, ":")
	user, host, at := strings.Cut(where, "@")
	return ok && at && user != "" && host != "" && path != "" && !strings.HasPrefix(path, "//") && !strings.ContainsAny(where, "/ ")
}

// sshClient is a connection to a server.
type sshClient struct {
	*ssh.Client
	release func()
}

func (c *sshClient) close() {
	_ = c.Client.Close()
	c.release()
}

// dialSSH connects and logs in. The connection ends with ctx.
func dialSSH(ctx context.Context, u *url.URL, opt SSHOptions) (*sshClient, error) {
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "22")
	}
	hosts, err := knownHosts(opt)
	if err != nil {
		return nil, err
	}
	user := "git"
	if u.User != nil && u.User.Username() != "" {
		user = u.User.Username()
	}
	keys, tried, release, err := sshKeys(ctx, opt)
	if err != nil {
		return nil, err
	}
	conn, err := transport.Dial(ctx, "tcp", address)
	if err != nil {
		release()
		return nil, fmt.Errorf("connect over ssh: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	cfg := &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(keys)},
		HostKeyCallback: hosts.check, HostKeyAlgorithms: hosts.algorithms(address),
	}
	_ = conn.SetDeadline(time.Now().Add(sshHandshake)) //nolint:forbidigo // a deadline of the kernel's
	c, channels, requests, err := ssh.NewClientConn(conn, address, cfg)
	if err != nil {
		stop()
		release()
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if strings.Contains(err.Error(), "unable to authenticate") {
			return nil, fmt.Errorf("the ssh server let %s not in with %s", user, *tried)
		}
		return nil, fmt.Errorf("log in over ssh: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	return &sshClient{ssh.NewClient(c, channels, requests), func() { stop(); release() }}, nil
}

// sshKeys returns the keys to log in with. What they were is in tried once they
// have been asked for.
func sshKeys(ctx context.Context, opt SSHOptions) (keys func() ([]ssh.Signer, error), tried *string, release func(), err error) {
	release = func() {}
	var fromAgent agent.ExtendedAgent
	if opt.Agent != "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", opt.Agent)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("ask the ssh agent (SSH_AUTH_SOCK): %w", err)
		}
		fromAgent = agent.NewClient(conn)
		release = func() { _ = conn.Close() }
	}
	tried = new(string)
	return func() ([]ssh.Signer, error) {
		var signers []ssh.Signer
		var from []string
		if fromAgent != nil {
			list, err := fromAgent.Signers()
			if err != nil {
				return nil, fmt.Errorf("ask the ssh agent: %w", err)
			}
			signers = list
			from = append(from, fmt.Sprintf("%d keys of the ssh agent", len(list)))
		}
		for _, dir := range opt.Dirs {
			for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
				path := filepath.Join(dir, name)
				signer, why := readKey(path)
				switch {
				case signer != nil:
					signers, from = append(signers, signer), append(from, path)
				case why != "":
					from = append(from, path+" ("+why+")")
				}
			}
		}
		if len(from) == 0 {
			from = []string{"no key: there is no agent (SSH_AUTH_SOCK), and no id_ed25519, id_ecdsa or id_rsa in " + strings.Join(opt.Dirs, " or ")}
		}
		*tried = strings.Join(from, ", ")
		return signers, nil
	}, tried, release, nil
}

// readKey reads a private key. Without one, why is what is wrong with it, or ""
// if there is none.
func readKey(path string) (signer ssh.Signer, why string) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ""
	}
	if err != nil {
		return nil, "cannot be read"
	}
	signer, err = ssh.ParsePrivateKey(raw)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, "has a passphrase: give it to an agent"
	case err != nil:
		return nil, "is not a private key"
	}
	return signer, ""
}

// hostKeys are the keys that servers are known to have.
type hostKeys struct {
	check ssh.HostKeyCallback
	known ssh.HostKeyCallback
}

func knownHosts(opt SSHOptions) (*hostKeys, error) {
	files := slices.Clone(opt.KnownHosts)
	for _, dir := range opt.Dirs {
		files = append(files, filepath.Join(dir, "known_hosts"))
	}
	all := strings.Join(files, ", ")
	files = slices.DeleteFunc(files, func(f string) bool {
		info, err := os.Stat(f)
		return err != nil || info.IsDir()
	})
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, fmt.Errorf("read the keys of known ssh servers: %w", err)
	}
	return &hostKeys{known: known, check: func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := known(host, remote, key)
		var unknown *knownhosts.KeyError
		var revoked *knownhosts.RevokedError
		name := knownhosts.Normalize(host)
		print := key.Type() + " " + ssh.FingerprintSHA256(key)
		switch {
		case errors.As(err, &revoked):
			return fmt.Errorf("the key of the ssh server %s, %s, is revoked in %s", name, print, revoked.Revoked.Filename)
		case errors.As(err, &unknown) && len(unknown.Want) > 0:
			want := unknown.Want[0]
			return fmt.Errorf("the ssh server %s shows the key %s and not the one in line %d of %s: somebody may stand in its place, or it has a new key", name, print, want.Line, want.Filename)
		case errors.As(err, &unknown):
			return fmt.Errorf("the ssh server %s is not known: its key is %s; if that is right, put the line that ssh-keyscan prints into one of %s", name, print, all)
		}
		return err
	}}, nil
}

// algorithms are those of the keys that are known of a server, so that it shows
// one of them; nil if none is known.
func (h *hostKeys) algorithms(address string) []string {
	// A key that nobody has makes the list of those that are known.
	var unknown *knownhosts.KeyError
	err := h.known(address, &net.TCPAddr{IP: net.IPv4zero}, noKey{})
	if !errors.As(err, &unknown) {
		return nil
	}
	var out []string
	for _, k := range unknown.Want {
		algorithms := []string{k.Key.Type()}
		if k.Key.Type() == ssh.KeyAlgoRSA {
			algorithms = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
		}
		for _, a := range algorithms {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// noKey is the key of no server.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }
