package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// KeychainOptions say where credentials are. The zero value has none.
type KeychainOptions struct {
	// Content is a Docker config as JSON, the value of DOCKER_AUTH_CONFIG. It
	// is asked first.
	Content string
	// Files are Docker or Podman configs, asked in this order. A directory
	// stands for the config.json in it. Files that are not there are skipped.
	Files []string
	// HelperEnv is the environment of credential helpers; nil: that of this
	// process.
	HelperEnv []string
	// Log takes warnings of helpers that fail; nil: none.
	Log *slog.Logger
}

// Keychain finds credentials in Docker configs and by credential helpers. It
// is safe for concurrent use.
type Keychain struct {
	sources []credentialSource
	env     []string
	log     *slog.Logger

	mu       sync.Mutex
	failures map[string]string // of helpers, by host
}

var _ authn.Keychain = (*Keychain)(nil)

// credentialSource is one config.
type credentialSource struct {
	from    string
	auths   map[string]authn.AuthConfig // by normalised key
	helpers map[string]string           // by host
	store   string                      // helper for all hosts
}

// dockerConfig is as much of a Docker config as concerns credentials.
type dockerConfig struct {
	Auths       map[string]dockerAuth `json:"auths"`
	CredHelpers map[string]string     `json:"credHelpers"`
	CredsStore  string                `json:"credsStore"`
}

type dockerAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// NewKeychain reads the configs. One that is there but cannot be read or
// understood is an error that names it, not its content.
func NewKeychain(opt KeychainOptions) (*Keychain, error) {
	k := &Keychain{env: opt.HelperEnv, log: opt.Log, failures: map[string]string{}}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if strings.TrimSpace(opt.Content) != "" {
		if err := k.add("DOCKER_AUTH_CONFIG", []byte(opt.Content)); err != nil {
			return nil, err
		}
	}
	for _, path := range opt.Files {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			path = filepath.Join(path, "config.json")
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read registry credentials: %w", err)
		}
		if err := k.add(path, content); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *Keychain) add(from string, content []byte) error {
	var cfg dockerConfig
	if err := json.Unmarshal(content, &cfg); err != nil {
		return fmt.Errorf("registry credentials in %s are not valid JSON: %w", from, withoutContent(err))
	}
	src := credentialSource{from: from, auths: map[string]authn.AuthConfig{}, helpers: map[string]string{}, store: cfg.CredsStore}
	for key, a := range cfg.Auths {
		auth, err := a.config()
		if err != nil {
			return fmt.Errorf("registry credentials in %s for %s: %w", from, key, err)
		}
		if auth != (authn.AuthConfig{}) {
			src.auths[normaliseKey(key)] = auth
		}
	}
	for host, helper := range cfg.CredHelpers {
		src.helpers[normaliseKey(host)] = helper
	}
	k.sources = append(k.sources, src)
	return nil
}

// withoutContent keeps an error of encoding/json from quoting a secret.
func withoutContent(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("syntax error at byte %d", syntax.Offset)
	}
	return errors.New("unexpected type")
}

func (a dockerAuth) config() (authn.AuthConfig, error) {
	out := authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if a.Auth == "" {
		return out, nil
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(a.Auth))
	if err != nil {
		if b, err = base64.RawStdEncoding.DecodeString(strings.TrimSpace(a.Auth)); err != nil {
			return out, errors.New(`"auth" is not valid base64`)
		}
	}
	user, password, ok := strings.Cut(string(b), ":")
	if !ok {
		return out, errors.New(`"auth" is not "user:password" in base64`)
	}
	out.Username, out.Password = user, strings.TrimRight(password, "\x00")
	return out, nil
}

// normaliseKey turns a key of a config, often a URL, into "host" or
// "host/path".
func normaliseKey(key string) string {
	if _, after, ok := strings.Cut(key, "://"); ok {
		key = after
	}
	key = strings.TrimSuffix(key, "/")
	for _, api := range []string{"/v1", "/v2"} {
		key = strings.TrimSuffix(key, api)
	}
	host, path, ok := strings.Cut(key, "/")
	host = canonicalHost(host)
	if ok {
		return host + "/" + path
	}
	return host
}

// Resolve finds the credentials for a registry or repository. Those for a
// repository, or a prefix of it, win over those for its host. A helper that
// fails is a warning.
func (k *Keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target) //nolint:forbidigo // authn.Keychain has no context
}

// ResolveContext is Resolve with a context, which ends helpers.
func (k *Keychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	cfg, _ := k.find(ctx, target)
	if cfg == nil {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(*cfg), nil
}

// Explain says in a few words which credentials are used for target, without
// telling them.
func (k *Keychain) Explain(target authn.Resource) string {
	for _, src := range k.sources {
		if helper := src.helper(target.RegistryStr()); helper != "" {
			k.mu.Lock()
			failure := k.failures[target.RegistryStr()]
			k.mu.Unlock()
			if failure != "" {
				return failure
			}
		}
		if key := src.key(target); key != "" {
			return fmt.Sprintf("with the credentials for %s in %s", key, src.from)
		}
		if helper := src.helper(target.RegistryStr()); helper != "" {
			return fmt.Sprintf("with docker-credential-%s, as %s says", helper, src.from)
		}
	}
	if len(k.sources) == 0 {
		return fmt.Sprintf("without credentials: there is no Docker config with any for %s", target.RegistryStr())
	}
	var from []string
	for _, src := range k.sources {
		from = append(from, src.from)
	}
	return fmt.Sprintf("without credentials: none for %s in %s", target.RegistryStr(), strings.Join(from, ", "))
}

// find returns credentials, nil if there are none, and where they are from.
func (k *Keychain) find(ctx context.Context, target authn.Resource) (*authn.AuthConfig, string) {
	host := target.RegistryStr()
	for _, src := range k.sources {
		if helper := src.helper(host); helper != "" {
			cfg, err := askHelper(ctx, helper, serverName(host), k.env)
			if err != nil {
				k.log.Warn("credential helper failed", "helper", helper, "host", host, "err", err)
				k.mu.Lock()
				k.failures[host] = fmt.Sprintf("docker-credential-%s failed: %v", helper, err)
				k.mu.Unlock()
			}
			if cfg != nil {
				return cfg, src.from
			}
		}
		if key := src.key(target); key != "" {
			cfg := src.auths[key]
			return &cfg, src.from
		}
	}
	return nil, ""
}

// helper is the credential helper for a host, "" if there is none.
func (s credentialSource) helper(host string) string {
	return cmp.Or(s.helpers[canonicalHost(host)], s.store)
}

// key is the longest key of auths that target lies under.
func (s credentialSource) key(target authn.Resource) string {
	for key := normaliseKey(target.String()); ; {
		if _, ok := s.auths[key]; ok {
			return key
		}
		i := strings.LastIndexByte(key, '/')
		if i < 0 {
			return ""
		}
		key = key[:i]
	}
}

// serverName is what a helper knows a host by.
func serverName(host string) string {
	if host == name.DefaultRegistry {
		return authn.DefaultAuthKey
	}
	return host
}
