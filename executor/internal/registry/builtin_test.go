package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/kilnhook/kiln/executor/internal/cloud"
)

// google is a token service of Google's whose tokens are numbered, and the
// environment that leads to it.
func google(t *testing.T, seconds int) map[string]string {
	t.Helper()
	var n atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":%d}`, n.Add(1), seconds)
	}))
	t.Cleanup(srv.Close)
	adc := t.TempDir() + "/adc.json"
	text := fmt.Sprintf(`{"type":"authorized_user","client_id":"c","client_secret":"hunter2","refresh_token":"r","token_uri":%q}`, srv.URL)
	if err := os.WriteFile(adc, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": adc, "AWS_EC2_METADATA_DISABLED": "true"}
}

func builtIn(t *testing.T, content string, env map[string]string, helpers ...string) *Keychain {
	t.Helper()
	get := func(name string) string { return env[name] }
	k, err := NewKeychain(KeychainOptions{
		Content: content, BuiltIn: helpers, Env: get,
		Logins: cloud.NewLogins(cloud.Options{Env: get, Now: time.Now, Wait: time.Millisecond}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Built-in sources are asked after the configs, each for its own hosts, and
// only those that were chosen.
func TestBuiltIn(t *testing.T) {
	env := google(t, 3600)
	for k, v := range map[string]string{
		"KANIKO_MY_REG_EXAMPLE_COM_USER": "host", "KANIKO_MY_REG_EXAMPLE_COM_PASSWORD": "p",
		"KANIKO_EXAMPLE_COM_USER": "domain", "KANIKO_EXAMPLE_COM_PASSWORD": "p",
		"KANIKO_HALF_EXAMPLE_ORG_USER":  "x",
		"KANIKO_PORT_EXAMPLE_5000_USER": "port", "KANIKO_PORT_EXAMPLE_5000_PASSWORD": "p",
		"CI_REGISTRY": "gitlab.example:5050", "CI_REGISTRY_USER": "ci", "CI_REGISTRY_PASSWORD": "job",
		"CI_DEPENDENCY_PROXY_SERVER": "gitlab.example:443", "CI_JOB_TOKEN": "jwt",
	} {
		env[k] = v
	}
	content := `{"auths":{"eu.gcr.io":{"username":"file","password":"p"},"gitlab.example:5050/team":{"username":"path","password":"p"}},
		"credHelpers":{"us.gcr.io":"gcr","a.azurecr.io":"acr-env","evil.example":"gcr","x.example.com":"ecr-login"}}`
	all := builtIn(t, content, env, BuiltInHelpers()...)
	for repo, want := range map[string]struct{ login, why string }{
		"my-reg.example.com/a":         {"host:p", "with KANIKO_MY_REG_EXAMPLE_COM_USER and _PASSWORD of the environment"},
		"other.example.com/a":          {"domain:p", "with KANIKO_EXAMPLE_COM_USER"},
		"notexample.com/a":             {"", "without credentials: none for notexample.com in DOCKER_AUTH_CONFIG"},
		"half.example.org/a":           {"", "without credentials"},
		"port.example:5000/a":          {"port:p", "with KANIKO_PORT_EXAMPLE_5000_USER"},
		"gitlab.example:5050/a":        {"ci:job", "with CI_REGISTRY_USER of the GitLab job"},
		"gitlab.example:5050/team/app": {"path:p", "with the credentials for gitlab.example:5050/team in DOCKER_AUTH_CONFIG"},
		"gitlab.example/a":             {"gitlab-ci-token:jwt", "with CI_JOB_TOKEN of the GitLab job"},
		"gitlab.example:5051/a":        {"", "without credentials"},
		"gcr.io/p/a":                   {"oauth2accesstoken:token-1", "with the google helper and the credentials of the gcloud user of "},
		"us.gcr.io/p/a":                {"oauth2accesstoken:token-1", "with the google helper and the credentials of the gcloud user of "},
		"eu.gcr.io/p/a":                {"file:p", "with the credentials for eu.gcr.io in DOCKER_AUTH_CONFIG"},
		"evil.example/a":               {"", "without credentials"},
		"gcr.io.evil.example/a":        {"", "without credentials"},
		"x.example.com/a":              {"domain:p", "with KANIKO_EXAMPLE_COM_USER"},
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com/a": {"", "and none of AWS's in the environment"},
	} {
		if got := credentials(t, all, repo); got != want.login {
			t.Errorf("%s: %q, want %q", repo, got, want.login)
		}
		r, _ := name.NewRepository(repo)
		if got := all.Explain(r); !strings.HasPrefix(got, want.why) && !strings.Contains(got, want.why) || strings.Contains(got, "hunter2") || strings.Contains(got, "token-1") {
			t.Errorf("Explain(%s) = %q, want %q", repo, got, want.why)
		}
	}
	none := builtIn(t, "", env)
	some := builtIn(t, "", env, "gitlab")
	for repo, want := range map[string][2]string{"gcr.io/a": {"", ""}, "my-reg.example.com/a": {"", ""}, "gitlab.example:5050/a": {"", "ci:job"}} {
		if got := [2]string{credentials(t, none, repo), credentials(t, some, repo)}; got != want {
			t.Errorf("%s: %q, want %q", repo, got, want)
		}
	}
	r, _ := name.NewRegistry("gcr.io")
	if got := some.Explain(r); !strings.HasSuffix(got, "and --credential-helpers leaves out google") {
		t.Errorf("Explain = %q", got)
	}
	if _, err := NewKeychain(KeychainOptions{BuiltIn: []string{"vault"}}); err == nil || !strings.Contains(err.Error(), `credential helper "vault" is not known: want some of env, google`) {
		t.Errorf("error = %v", err)
	}
}

// Credentials of a cloud that do not work are told, and leave the registry to
// decide about somebody without any.
func TestBuiltInFails(t *testing.T) {
	env := map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": t.TempDir() + "/none"}
	k := builtIn(t, "", env, "google")
	if got := credentials(t, k, "gcr.io/p/a"); got != "" {
		t.Errorf("credentials = %q", got)
	}
	r, _ := name.NewRepository("gcr.io/p/a")
	if got := k.Explain(r); !strings.HasPrefix(got, "credential helper google failed: credentials of GOOGLE_APPLICATION_CREDENTIALS=") {
		t.Errorf("Explain = %q", got)
	}
}

// A login that is about to expire is asked for anew by the one who holds it.
func TestRenewed(t *testing.T) {
	k := builtIn(t, "", google(t, 90), "google") // less than what is thought to be enough
	r, _ := name.NewRepository("gcr.io/p/a")
	a, err := k.Resolve(r)
	if err != nil {
		t.Fatal(err)
	}
	first, err := authn.Authorization(t.Context(), a)
	if err != nil || first.Password == "" {
		t.Fatal(first, err)
	}
	short := builtIn(t, "", google(t, 30), "google")
	if a, err = short.Resolve(r); err != nil {
		t.Fatal(err)
	}
	one, _ := authn.Authorization(t.Context(), a)
	two, _ := authn.Authorization(t.Context(), a)
	if one.Password == two.Password || two.Password == "" {
		t.Errorf("passwords %q, %q", one.Password, two.Password)
	}
}
