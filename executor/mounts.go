package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnhook/kiln/executor/internal/build"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/workspace"
)

// maxSecret is how large a secret may be, as with BuildKit.
const maxSecret = 500 << 10

// mounts reads what the flags give to RUN --mount. Secrets are read now: in
// place their files may be gone later.
func (s *session) mounts() (build.Mounts, error) {
	dir, err := filepath.Abs(s.c.cacheMountDir)
	if err != nil {
		return build.Mounts{}, fmt.Errorf("--cache-mount-dir: %w", err)
	}
	if s.c.cacheMountDir == "" {
		dir = filepath.Join(s.workDir, "mounts")
	}
	m := build.Mounts{
		Caches: workspace.NewCaches(dir), Secrets: map[string][]byte{}, Agents: map[string]string{},
		Alone: s.iso.mode == sandbox.InPlace,
	}
	for _, flag := range s.c.secrets {
		f, err := parseSecret(flag)
		if err != nil {
			return m, fmt.Errorf("--secret %s: %w", flag, err)
		}
		if _, ok := m.Secrets[f.id]; ok {
			return m, fmt.Errorf("--secret: %q is given twice", f.id)
		}
		if m.Secrets[f.id], err = f.read(s.p.lookup); err != nil {
			return m, fmt.Errorf("--secret id=%s: %w", f.id, err)
		}
	}
	for _, flag := range s.c.sshAgents {
		id, path, err := parseAgent(flag, s.p.lookup)
		if err != nil {
			return m, fmt.Errorf("--ssh %s: %w", flag, err)
		}
		if _, ok := m.Agents[id]; ok {
			return m, fmt.Errorf("--ssh: %q is given twice", id)
		}
		m.Agents[id] = path
	}
	return m, nil
}

// ownPaths are the executor's own files that an in-place build leaves alone.
func (s *session) ownPaths() []string {
	var out []string
	// Credentials may be read when everything is built.
	for _, name := range []string{
		"GOOGLE_APPLICATION_CREDENTIALS", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AZURE_FEDERATED_TOKEN_FILE",
	} {
		if path := s.env(name); filepath.IsAbs(path) {
			out = append(out, path)
		}
	}
	for _, dir := range []string{s.c.cacheMountDir, s.c.storeDir} {
		if abs, err := filepath.Abs(dir); err == nil && dir != "" {
			out = append(out, abs)
		}
	}
	for _, path := range s.given.Agents {
		out = append(out, path)
	}
	if s.c.cache && s.c.cacheDir != "" {
		if dir, err := filepath.Abs(s.c.cacheDir); err == nil {
			out = append(out, dir)
		}
	}
	return out
}

// secretFlag is a --secret: a file or a variable. With neither it is the
// variable of its name, if there is one, or the file.
type secretFlag struct{ id, file, variable string }

func parseSecret(flag string) (secretFlag, error) {
	var s secretFlag
	fields, err := csv.NewReader(strings.NewReader(flag)).Read()
	if err != nil {
		return s, errors.New("want id=name[,src=file|,env=variable]")
	}
	kind := ""
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok || value == "" {
			return s, fmt.Errorf("%q: want key=value", field)
		}
		switch strings.ToLower(key) {
		case "id":
			s.id = value
		case "src", "source":
			s.file = value
		case "env":
			s.variable = value
		case "type":
			kind = value
		default:
			return s, fmt.Errorf("unknown key %q: want id, src, env or type", key)
		}
	}
	switch {
	case s.id == "":
		return s, errors.New("it has no id")
	case kind != "" && kind != "file" && kind != "env":
		return s, fmt.Errorf("unknown type %q: want file or env", kind)
	case kind == "env" && s.variable == "":
		s.variable, s.file = s.file, ""
	case kind == "file" && s.variable != "":
		return s, errors.New("type=file has no env")
	}
	if s.file != "" && s.variable != "" {
		return s, errors.New("it is a file or a variable, not both")
	}
	if kind == "env" && s.variable == "" {
		s.variable = s.id
	}
	return s, nil
}

func (s secretFlag) read(lookup func(string) (string, bool)) ([]byte, error) {
	if s.variable == "" && s.file == "" {
		if v, ok := lookup(s.id); ok {
			return checkSecret([]byte(v))
		}
		s.file = s.id
	}
	if s.variable != "" {
		v, ok := lookup(s.variable)
		if !ok {
			return nil, fmt.Errorf("the variable %s is not set", s.variable)
		}
		return checkSecret([]byte(v))
	}
	f, err := os.Open(s.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	return checkSecret(b)
}

func checkSecret(b []byte) ([]byte, error) {
	if len(b) > maxSecret {
		return nil, fmt.Errorf("it is larger than %d bytes", maxSecret)
	}
	return b, nil
}

// parseAgent reads "id[=socket]".
func parseAgent(flag string, lookup func(string) (string, bool)) (id, path string, err error) {
	id, path, given := strings.Cut(flag, "=")
	if id == "" || given && path == "" {
		return "", "", errors.New("want default or id[=socket]")
	}
	if !given {
		if path, _ = lookup("SSH_AUTH_SOCK"); path == "" {
			return "", "", errors.New("SSH_AUTH_SOCK is not set: start an agent with ssh-agent, or name its socket")
		}
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return "", "", err
	}
	if fi.Mode()&os.ModeSocket == 0 {
		return "", "", fmt.Errorf("%s is not the socket of an agent; add a key to an agent with ssh-add", path)
	}
	return id, path, nil
}
