package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/kilnhook/kiln/executor/internal/cloud"
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
	// BuiltIn names the built-in sources that are asked after the configs, in
	// this order, of those that BuiltInHelpers lists.
	BuiltIn []string
	// Env returns an environment variable or "", for built-in sources; nil: an
	// empty environment.
	Env func(name string) string
	// Logins finds logins for the registries of clouds; nil: none.
	Logins *cloud.Logins
	// Log takes warnings of helpers that fail; nil: none.
	Log *slog.Logger
}

// Keychain finds credentials in Docker configs and by credential helpers. It
// is safe for concurrent use.
type Keychain struct {
	sources []credentialSource
	builtIn []string
	env     []string
	getenv  func(string) string
	logins  *cloud.Logins
	log     *slog.Logger

	mu  sync.Mutex
	why map[string]string // what was used, by registry or repository
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
	k := &Keychain{builtIn: opt.BuiltIn, env: opt.HelperEnv, getenv: opt.Env, logins: opt.Logins, log: opt.Log}
	for _, name := range opt.BuiltIn {
		if !slices.Contains(BuiltInHelpers(), name) {
			return nil, fmt.Errorf("credential helper %q is not known: want some of %s", name, strings.Join(BuiltInHelpers(), ", "))
		}
	}
	if k.getenv == nil {
		k.getenv = func(string) string { return "" }
	}
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

// Resolve finds the credentials for a registry or repository. In each config
// those for a path win over the helper of the host, this over those for the
// host, and these over the store for all hosts. Built-in sources come last. A
// helper that fails is a warning.
func (k *Keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target) //nolint:forbidigo // authn.Keychain has no context
}

// ResolveContext is Resolve with a context, which ends helpers.
func (k *Keychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	f := k.find(ctx, target)
	k.mu.Lock()
	if k.why == nil {
		k.why = map[string]string{}
	}
	k.why[target.String()] = f.why
	k.mu.Unlock()
	switch {
	case f.cfg == nil:
		return authn.Anonymous, nil
	case f.passes:
		return &renewed{k: k, target: target}, nil
	}
	return authn.FromConfig(*f.cfg), nil
}

// renewed are credentials that are asked for anew each time, since they expire
// while a build is long.
type renewed struct {
	k      *Keychain
	target authn.Resource
}

func (r *renewed) Authorization() (*authn.AuthConfig, error) {
	return r.AuthorizationContext(context.Background()) //nolint:forbidigo // authn.Authenticator has no context
}

func (r *renewed) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	if f := r.k.find(ctx, r.target); f.cfg != nil {
		return f.cfg, nil
	}
	return &authn.AuthConfig{}, nil
}

// Explain says in a few words which credentials are used for target and why,
// without telling them.
func (k *Keychain) Explain(target authn.Resource) string {
	k.mu.Lock()
	why, ok := k.why[target.String()]
	k.mu.Unlock()
	if !ok {
		why = k.find(context.Background(), target).why //nolint:forbidigo // what is found is mostly known by now
	}
	return why
}

// found are credentials and why they are used, or why there are none.
type found struct {
	cfg    *authn.AuthConfig // nil: none
	why    string
	passes bool // they expire
}

func (k *Keychain) find(ctx context.Context, target authn.Resource) found {
	host := target.RegistryStr()
	var failures []string
	failed := func(what string, err error) {
		failures = append(failures, fmt.Sprintf("%s failed: %v", what, err))
		k.log.Warn("credential helper failed", "helper", what, "host", host, "err", err)
	}
	for _, src := range k.sources {
		key := src.key(target)
		if strings.Contains(key, "/") {
			return src.found(key)
		}
		for _, helper := range []string{src.helpers[canonicalHost(host)], src.store} {
			if helper != "" {
				f, err := k.ask(ctx, helper, host)
				if err != nil {
					failed("docker-credential-"+helper, err)
				}
				if f.cfg != nil {
					f.why += ", as " + src.from + " says"
					return f
				}
			}
			if key != "" {
				return src.found(key)
			}
		}
	}
	for _, name := range k.builtIn {
		f, err := k.builtInFor(ctx, name, host)
		if err != nil {
			failed("credential helper "+name, err)
		}
		if f.cfg != nil {
			return f
		}
	}
	if len(failures) > 0 {
		return found{why: strings.Join(failures, "; ")}
	}
	return found{why: k.none(host)}
}

// none says why there are no credentials for a host.
func (k *Keychain) none(host string) string {
	text := "without credentials: there is no Docker config with any for " + host
	if len(k.sources) > 0 {
		var from []string
		for _, src := range k.sources {
			from = append(from, src.from)
		}
		text = fmt.Sprintf("without credentials: none for %s in %s", host, strings.Join(from, ", "))
	}
	for _, c := range []struct {
		helper, owner string
		is            func(string) bool
	}{{"google", "Google", cloud.IsGoogle}, {"ecr", "AWS", cloud.IsECR}, {"acr", "Azure", cloud.IsACR}} {
		switch {
		case !c.is(host):
		case slices.Contains(k.builtIn, c.helper):
			text += ", and none of " + c.owner + "'s in the environment, its files or its metadata service"
		default:
			text += ", and --credential-helpers leaves out " + c.helper
		}
	}
	return text
}

func (s credentialSource) found(key string) found {
	cfg := s.auths[key]
	return found{cfg: &cfg, why: fmt.Sprintf("with the credentials for %s in %s", key, s.from)}
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
