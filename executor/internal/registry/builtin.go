package registry

import (
	"context"
	"errors"
	"os/exec"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/kilnhook/kiln/executor/internal/cloud"
)

// BuiltInHelpers names the sources of credentials that need no program, in
// the order in which they are asked unless somebody chooses another.
func BuiltInHelpers() []string { return []string{"env", "google", "ecr", "acr", "gitlab"} }

// ask asks the helper that a config names. One whose program is not installed
// may be among those that are built in.
func (k *Keychain) ask(ctx context.Context, helper, host string) (found, error) {
	cfg, err := askHelper(ctx, helper, serverName(host), k.env)
	if errors.Is(err, exec.ErrNotFound) {
		if name := builtInName(helper); name != "" {
			return k.builtInFor(ctx, name, host)
		}
	}
	return found{cfg: cfg, why: "with docker-credential-" + helper}, err
}

// builtInName is the built-in source that does what a credential helper does;
// "" if none does.
func builtInName(helper string) string {
	switch helper {
	case "gcr", "gcloud":
		return "google"
	case "ecr-login":
		return "ecr"
	case "acr", "acr-env":
		return "acr"
	case "gitlabci":
		return "gitlab"
	}
	return ""
}

// builtInFor asks a built-in source.
func (k *Keychain) builtInFor(ctx context.Context, name, host string) (found, error) {
	var login *cloud.Login
	var err error
	switch {
	case name == "env":
		return k.fromEnv(host), nil
	case name == "gitlab":
		return k.fromGitLab(host), nil
	case k.logins == nil:
	case name == "google":
		login, err = k.logins.Google(ctx, host)
	case name == "ecr":
		login, err = k.logins.ECR(ctx, host)
	case name == "acr":
		login, err = k.logins.ACR(ctx, host)
	}
	if login == nil {
		return found{}, err
	}
	return found{
		cfg: &authn.AuthConfig{Username: login.Username, Password: login.Password, IdentityToken: login.IdentityToken},
		why: "with the " + name + " helper and the credentials of " + login.From, passes: true,
	}, nil
}

// fromEnv reads KANIKO_<HOST>_USER and KANIKO_<HOST>_PASSWORD. The host is in
// capitals, with "_" for every other character, and may lack labels from the
// left.
func (k *Keychain) fromEnv(host string) found {
	labels := strings.Split(strings.ToUpper(strings.NewReplacer("-", "_", ":", "_").Replace(host)), ".")
	for i := range labels {
		prefix := "KANIKO_" + strings.Join(labels[i:], "_")
		user, password := k.getenv(prefix+"_USER"), k.getenv(prefix+"_PASSWORD")
		if user != "" && password != "" {
			return found{cfg: &authn.AuthConfig{Username: user, Password: password}, why: "with " + prefix + "_USER and _PASSWORD of the environment"}
		}
	}
	return found{}
}

// fromGitLab uses what a job of GitLab's is given for the registry of its
// project and for the dependency proxy, for exactly these hosts.
func (k *Keychain) fromGitLab(host string) found {
	for _, v := range []struct{ server, user, password string }{
		{"CI_REGISTRY", "CI_REGISTRY_USER", "CI_REGISTRY_PASSWORD"},
		{"CI_DEPENDENCY_PROXY_SERVER", "CI_DEPENDENCY_PROXY_USER", "CI_DEPENDENCY_PROXY_PASSWORD"},
	} {
		server := k.getenv(v.server)
		if server == "" || !sameHost(normaliseKey(server), host) {
			continue
		}
		if user, password := k.getenv(v.user), k.getenv(v.password); user != "" && password != "" {
			return found{cfg: &authn.AuthConfig{Username: user, Password: password}, why: "with " + v.user + " of the GitLab job"}
		}
		if token := k.getenv("CI_JOB_TOKEN"); token != "" {
			return found{cfg: &authn.AuthConfig{Username: "gitlab-ci-token", Password: token}, why: "with CI_JOB_TOKEN of the GitLab job"}
		}
	}
	return found{}
}
