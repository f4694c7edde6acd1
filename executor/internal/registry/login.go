package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// CheckLogin asks a registry whether it knows a user by this password.
func (c *Client) CheckLogin(ctx context.Context, host, username, password string) error {
	reg, err := name.NewRegistry(canonicalHost(host), c.nameOptions(host+"/x", false)...)
	if err != nil {
		return fmt.Errorf("log in to %q: %w", host, err)
	}
	auth := authn.FromConfig(authn.AuthConfig{Username: username, Password: password})
	err = c.again(ctx, c.opt.PushRetry, func() error { return c.ask(ctx, reg, auth) })
	if err != nil {
		return fmt.Errorf("log in to %s as %s: %w", host, username, err)
	}
	return nil
}

func (c *Client) ask(ctx context.Context, reg name.Registry, auth authn.Authenticator) error {
	rt, err := ggcr.NewWithContext(ctx, reg, auth, ggcr.NewUserAgent(c.destTripper, c.opt.UserAgent), nil)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, reg.Scheme()+"://"+reg.RegistryStr()+"/v2/", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return ggcr.CheckError(resp, http.StatusOK)
}

// SaveLogin writes a user and password for a registry into the Docker config
// at path, and leaves everything else in it as it is. Only the owner can read
// the file.
func SaveLogin(path, host, username, password string) error {
	if err := saveLogin(path, host, username, password); err != nil {
		return fmt.Errorf("save registry credentials: %w", err)
	}
	return nil
}

func saveLogin(path, host, username, password string) error {
	cfg, auths := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	content, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(content, &cfg); err != nil {
			return fmt.Errorf("%s is not valid JSON: %w", path, withoutContent(err))
		}
	}
	if raw, ok := cfg["auths"]; ok {
		if err := json.Unmarshal(raw, &auths); err != nil {
			return fmt.Errorf("%s is not a Docker config: %w", path, withoutContent(err))
		}
	}
	entry := map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(username + ":" + password))}
	if auths[serverName(canonicalHost(host))], err = json.Marshal(entry); err != nil {
		return err
	}
	if cfg["auths"], err = json.Marshal(auths); err != nil {
		return err
	}
	out, err := json.MarshalIndent(cfg, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(path, append(out, '\n'))
}

// replaceFile replaces a file at once.
func replaceFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already if all went well
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
