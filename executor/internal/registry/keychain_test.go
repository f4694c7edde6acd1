package registry

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// writeHelper puts a credential helper into the PATH.
func writeHelper(t *testing.T, dir, helper, script string) {
	t.Helper()
	path := filepath.Join(dir, "docker-credential-"+helper)
	if err := os.WriteFile(path, []byte("#!/bin/sh\nread server\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// credentials is what a keychain has for a repository, "user:password".
func credentials(t *testing.T, k *Keychain, repo string) string {
	t.Helper()
	r, err := name.NewRepository(repo)
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Resolve(r)
	if err != nil {
		t.Fatal(err)
	}
	if a == authn.Anonymous {
		return ""
	}
	cfg, err := a.Authorization()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.IdentityToken != "" {
		return "token:" + cfg.IdentityToken
	}
	if cfg.RegistryToken != "" {
		return "registry:" + cfg.RegistryToken
	}
	return cfg.Username + ":" + cfg.Password
}

// Credentials are found under every spelling of a host, the closest path
// first, for exactly that host.
func TestKeychainAuths(t *testing.T) {
	k, err := NewKeychain(KeychainOptions{Content: fmt.Sprintf(`{"auths":{
		"https://index.docker.io/v1/": {"auth": %q},
		"reg.example": {"username": "u", "password": "p:q"},
		"reg.example/team": {"auth": %q},
		"https://reg.example:5000/v2/": {"identitytoken": "idt"},
		"tok.example": {"registrytoken": "rt"},
		"empty.example": {}
	}}`, b64("hub:secret"), strings.TrimRight(b64("team:x"), "="))})
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]string{
		"debian":                         "hub:secret",
		"docker.io/a/b":                  "hub:secret",
		"reg.example/other":              "u:p:q",
		"reg.example/team/app":           "team:x",
		"reg.example/teamwork":           "u:p:q",
		"reg.example:5000/x":             "token:idt",
		"tok.example/x":                  "registry:rt",
		"empty.example/x":                "",
		"evil-reg.example/x":             "",
		"reg.example.evil.example/x":     "",
		"sub.reg.example/x":              "",
		"reg.example:5001/x":             "",
		"index.docker.io.evil.example/x": "",
	} {
		if got := credentials(t, k, repo); got != want {
			t.Errorf("%s: %q, want %q", repo, got, want)
		}
	}
}

// The content comes first, then the files in their order; files that are not
// there do not matter.
func TestKeychainOrder(t *testing.T) {
	dir := t.TempDir()
	podman := filepath.Join(dir, "auth.json")
	auth := func(host, user string) string {
		return fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":"p"}}}`, host, user)
	}
	for path, content := range map[string]string{filepath.Join(dir, "config.json"): auth("b.example", "dir"), podman: auth("c.example", "podman")} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, err := NewKeychain(KeychainOptions{Content: auth("a.example", "content"), Files: []string{"", filepath.Join(dir, "none"), dir, podman}})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"a.example": "content:p", "b.example": "dir:p", "c.example": "podman:p", "d.example": ""} {
		if got := credentials(t, k, host+"/x"); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
	r, _ := name.NewRegistry("d.example")
	if got := k.Explain(r); !strings.HasPrefix(got, "without credentials: none for d.example in DOCKER_AUTH_CONFIG, "+dir) {
		t.Errorf("Explain = %q", got)
	}
	r, _ = name.NewRegistry("c.example")
	if got := k.Explain(r); got != "with the credentials for c.example in "+podman {
		t.Errorf("Explain = %q", got)
	}
}

// A config that is broken is named, and never quoted.
func TestKeychainErrors(t *testing.T) {
	for content, want := range map[string]string{
		`{"auths": hunter2}`:                                "registry credentials in DOCKER_AUTH_CONFIG are not valid JSON: syntax error at byte 11",
		`{"auths": "hunter2"}`:                              "unexpected type",
		`{"auths":{"h":{"auth":"%%hunter2"}}}`:              `for h: "auth" is not valid base64`,
		`{"auths":{"h":{"auth":"` + b64("hunter2") + `"}}}`: `for h: "auth" is not "user:password" in base64`,
	} {
		_, err := NewKeychain(KeychainOptions{Content: content})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error = %v, want %q", err, want)
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "config.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeychain(KeychainOptions{Files: []string{dir}}); err == nil {
		t.Error("no error for a config that cannot be read")
	}
}

// Helpers are asked for their hosts, before what stands in the file; one that
// fails is a warning, and later explains a refusal.
func TestKeychainHelpers(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	writeHelper(t, bin, "good", `echo "{\"Username\":\"for\",\"Secret\":\"$server$EXTRA\"}"`)
	writeHelper(t, bin, "token", `echo '{"Username":"<token>","Secret":"abc"}'`)
	writeHelper(t, bin, "none", `echo "credentials not found in native keychain"; exit 1`)
	writeHelper(t, bin, "broken", `echo "cannot reach the cloud" >&2; exit 1`)
	writeHelper(t, bin, "chatty", `echo "not json"`)
	writeHelper(t, bin, "half", `echo '{"Secret":"x"}'`)
	writeHelper(t, bin, "nothing", `echo '{}'`)
	var b lockedBuffer
	k, err := NewKeychain(KeychainOptions{Log: logTo(&b), Content: `{
		"credHelpers": {"good.example": "good", "token.example": "token", "none.example": "none", "broken.example": "broken", "chatty.example": "chatty",
			"half.example": "half", "nothing.example": "nothing", "evil.example": "../evil", "missing.example": "missing", "docker.io": "good"},
		"auths": {"none.example": {"username": "file", "password": "p"}, "good.example": {"username": "file", "password": "p"}}}`})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"good.example/x": "for:good.example", "token.example/x": "token:abc", "none.example/x": "file:p", "docker.io/x": "for:https://index.docker.io/v1/",
		"broken.example/x": "", "chatty.example/x": "", "half.example/x": "", "nothing.example/x": "", "evil.example/x": "", "missing.example/x": "",
	} {
		if got := credentials(t, k, host); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
	for _, want := range []string{"cannot reach the cloud", "is not the name of a credential helper", "its answer is not valid JSON", "its answer has no user name", "docker-credential-missing"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, b.String())
		}
	}
	for host, want := range map[string]string{
		"broken.example": "docker-credential-broken failed: exit status 1: cannot reach the cloud",
		"token.example":  "with docker-credential-token, as DOCKER_AUTH_CONFIG says",
	} {
		r, _ := name.NewRegistry(host)
		if got := k.Explain(r); got != want {
			t.Errorf("Explain(%s) = %q, want %q", host, got, want)
		}
	}
	k, err = NewKeychain(KeychainOptions{Content: `{"credsStore": "good"}`, HelperEnv: append(os.Environ(), "EXTRA=+env")})
	if err != nil {
		t.Fatal(err)
	}
	if got := credentials(t, k, "any.example/x"); got != "for:any.example+env" {
		t.Errorf("credsStore: %q", got)
	}
}

func FuzzKeychain(f *testing.F) {
	f.Add(`{"auths":{"h":{"auth":"YTpi"}},"credHelpers":{"x":"y"}}`, "h/a/b")
	f.Add(`{"auths":{"https://h/v1/":{"username":"a"}}}`, "debian")
	f.Fuzz(func(t *testing.T, content, repo string) {
		k, err := NewKeychain(KeychainOptions{Content: content})
		if err != nil || len(k.sources) == 0 {
			return
		}
		k.sources[0].helpers, k.sources[0].store = nil, "" // runs nothing
		r, err := name.NewRepository(repo)
		if err != nil {
			return
		}
		if _, err := k.Resolve(r); err != nil {
			t.Error(err)
		}
		_ = k.Explain(r)
	})
}
