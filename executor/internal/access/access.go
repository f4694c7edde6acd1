// Package access reads what a command line and the environment say about
// registries, and makes the client that they describe. The executor and the
// warmer share it.
package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/pflag"

	"github.com/kilnhook/kiln/executor/internal/basecache"
	"github.com/kilnhook/kiln/executor/internal/cloud"
	"github.com/kilnhook/kiln/executor/internal/registry"
	"github.com/kilnhook/kiln/executor/internal/transport"
)

// DefaultKanikoDir is where kaniko's image has its files.
const DefaultKanikoDir = "/kaniko"

// Flags are what the command line says. Define, or its kin, sets the defaults.
type Flags struct {
	// KanikoDir holds the executor's own files.
	KanikoDir string

	insecure, insecurePull           bool
	skipTLS, skipTLSPull             bool
	insecureHosts, skipTLSHosts      []string
	certificates, clientCertificates map[string]string
	maps, mirrors                    []string
	skipFallback, ignoreImmutable    bool
	pushRetry, downloadRetry         int
	helpers                          []string
	helpersGiven                     bool
}

// Process is what the program is given by whoever started it.
type Process struct {
	Lookup    func(string) (string, bool) // a variable of the environment
	Env       []string                    // all of it, for credential helpers
	Now       func() time.Time
	UserAgent string
	Log       *slog.Logger
	// Local is where images are that need not be fetched; nil: nowhere.
	Local *basecache.Dir
	// Document is registry.Options.Document.
	Document func(ctx context.Context, digest v1.Hash) []byte
}

// local returns an image that need not be fetched. One that is there and
// cannot be used is a warning.
func (p Process) local(digest v1.Hash) v1.Image {
	if p.Local == nil {
		return nil
	}
	img, err := p.Local.Image(digest)
	if err != nil && !errors.Is(err, basecache.ErrNotCached) && !errors.Is(err, basecache.ErrExpired) {
		p.Log.Warn("image is fetched although it is cached", "err", err)
	}
	return img
}

func (p Process) env(name string) string {
	v, _ := p.Lookup(name)
	return v
}

// Define defines the flags of a program that pulls and pushes.
func (c *Flags) Define(f *pflag.FlagSet) {
	c.DefineForPush(f)
	c.definePull(f)
}

// DefineForPull defines the flags of a program that only pulls.
func (c *Flags) DefineForPull(f *pflag.FlagSet) {
	c.defineHosts(f)
	c.definePull(f)
}

// DefineForPush defines the flags of a program that only pushes.
func (c *Flags) DefineForPush(f *pflag.FlagSet) {
	f.BoolVar(&c.ignoreImmutable, "push-ignore-immutable-tag-errors", false, "take it for a success that a tag may not be moved")
	f.BoolVar(&c.insecure, "insecure", false, "push by plain HTTP")
	f.BoolVar(&c.skipTLS, "skip-tls-verify", false, "do not verify certificates")
	f.IntVar(&c.pushRetry, "push-retry", 0, "how often a failed push is tried again")
	c.defineHosts(f)
}

// defineHosts defines what holds for single registries and for all requests.
func (c *Flags) defineHosts(f *pflag.FlagSet) {
	f.StringArrayVar(&c.insecureHosts, "insecure-registry", nil, "`host` to speak plain HTTP to; repeatable")
	f.StringArrayVar(&c.skipTLSHosts, "skip-tls-verify-registry", nil, "`host` whose certificate is not verified; repeatable")
	f.StringToStringVar(&c.certificates, "registry-certificate", nil, "`host=file` of a CA certificate; repeatable")
	f.Var(keyValue{&c.clientCertificates}, "registry-client-cert", "`host=cert,key` files of a client certificate; repeatable")
	f.StringArrayVar(&c.helpers, "credential-helpers", nil,
		"`names` of built-in sources of credentials to ask after Docker's config: "+strings.Join(registry.BuiltInHelpers(), ", ")+" (all by default, in this order); empty for none; repeatable")
	f.StringVar(&c.KanikoDir, "kaniko-dir", DefaultKanikoDir, "`directory` of the executor's own files; $KANIKO_DIR by default")
}

// definePull defines where base images come from.
func (c *Flags) definePull(f *pflag.FlagSet) {
	f.BoolVar(&c.insecurePull, "insecure-pull", false, "pull by plain HTTP")
	f.BoolVar(&c.skipTLSPull, "skip-tls-verify-pull", false, "do not verify certificates when pulling")
	f.StringArrayVar(&c.maps, "registry-map", nil, "`host=other[;host2=other2]`: pull from other first; repeatable")
	f.StringArrayVar(&c.mirrors, "registry-mirror", nil, "`host` to pull Docker Hub's images from first; repeatable")
	f.BoolVar(&c.skipFallback, "skip-default-registry-fallback", false, "fail if no mirror has the image")
	f.IntVar(&c.downloadRetry, "image-download-retry", 0, "how often a failed pull is tried again")
}

// Environment reads what stands in the environment for flags that were not
// given.
func (c *Flags) Environment(lookup func(string) (string, bool), flags *pflag.FlagSet) {
	given := func(variable, flag string) (string, bool) {
		v, ok := lookup(variable)
		f := flags.Lookup(flag)
		return v, ok && v != "" && f != nil && !f.Changed
	}
	if v, ok := given("KANIKO_REGISTRY_MAP", "registry-map"); ok {
		c.maps = []string{v}
	}
	if v, ok := given("KANIKO_REGISTRY_MIRROR", "registry-mirror"); ok {
		c.mirrors = []string{v}
	}
	if v, ok := given("KANIKO_DIR", "kaniko-dir"); ok {
		c.KanikoDir = v
	}
	c.helpersGiven = flags.Changed("credential-helpers")
}

// keyValue is a repeatable flag host=value whose value may hold commas.
type keyValue struct{ m *map[string]string }

func (k keyValue) String() string { return "" }
func (k keyValue) Type() string   { return "host=value" }

func (k keyValue) Set(s string) error {
	host, v, ok := strings.Cut(s, "=")
	if !ok || host == "" || strings.Count(v, ",") != 1 {
		return fmt.Errorf("%q: want host=/path/to/cert,/path/to/key", s)
	}
	if *k.m == nil {
		*k.m = map[string]string{}
	}
	(*k.m)[host] = v
	return nil
}

// builtIn are the built-in sources of credentials to ask.
func (c *Flags) builtIn() []string {
	if !c.helpersGiven {
		return registry.BuiltInHelpers()
	}
	var out []string
	for _, v := range c.helpers {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name != "" && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// Keychain finds the credentials that the flags and the environment give.
func (c *Flags) Keychain(p Process) (*registry.Keychain, error) {
	return registry.NewKeychain(registry.KeychainOptions{
		Content: p.env("DOCKER_AUTH_CONFIG"), Files: c.credentialFiles(p), HelperEnv: p.Env, Log: p.Log,
		BuiltIn: c.builtIn(), Env: p.env,
		Logins: cloud.NewLogins(cloud.Options{
			Env: p.env, Now: p.Now,
			Transport: transport.New(transport.Options{Proxy: http.ProxyFromEnvironment, UserAgent: p.UserAgent, Header: 30 * time.Second}),
		}),
	})
}

// Client makes the client that the flags describe.
func (c *Flags) Client(p Process, keys *registry.Keychain) (*registry.Client, error) {
	maps, err := parseMaps(c.maps)
	if err != nil {
		return nil, err
	}
	certs := map[string]registry.ClientCert{}
	for host, v := range c.clientCertificates {
		cert, key, _ := strings.Cut(v, ",")
		certs[host] = registry.ClientCert{Cert: cert, Key: key}
	}
	return registry.New(registry.Options{
		Insecure: c.insecure, InsecurePull: c.insecurePull, InsecureRegistries: c.insecureHosts,
		SkipTLSVerify: c.skipTLS, SkipTLSVerifyPull: c.skipTLSPull, SkipTLSVerifyRegistries: c.skipTLSHosts,
		Certificates: c.certificates, ClientCerts: certs, Maps: maps, Mirrors: c.mirrors,
		SkipDefaultFallback: c.skipFallback, PushRetry: c.pushRetry, DownloadRetry: c.downloadRetry,
		IgnoreImmutableTagErrors: c.ignoreImmutable, Keychain: keys, UserAgent: p.UserAgent,
		Proxy: http.ProxyFromEnvironment, Log: p.Log, Local: p.local, Document: p.Document,
	})
}

// credentialFiles are the places of registry credentials, kaniko's first.
func (c *Flags) credentialFiles(p Process) []string {
	var files []string
	if dir := p.env("DOCKER_CONFIG"); dir != "" {
		files = append(files, dir)
	}
	files = append(files, filepath.Join(c.KanikoDir, ".docker"))
	if home := p.env("HOME"); home != "" {
		files = append(files, filepath.Join(home, ".docker"))
	}
	if f := p.env("REGISTRY_AUTH_FILE"); f != "" {
		files = append(files, f)
	}
	// A file that is in two places is read once.
	var out []string
	for _, f := range files {
		if f = filepath.Clean(f); !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// parseMaps reads "a=b;c=d" values of --registry-map.
func parseMaps(values []string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, v := range values {
		for pair := range strings.SplitSeq(v, ";") {
			if pair = strings.TrimSpace(pair); pair == "" {
				continue
			}
			from, to, ok := strings.Cut(pair, "=")
			if !ok || from == "" || to == "" {
				return nil, fmt.Errorf("--registry-map %q: want host=other", pair)
			}
			out[from] = append(out[from], to)
		}
	}
	return out, nil
}
