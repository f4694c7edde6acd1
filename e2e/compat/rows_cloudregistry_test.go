package compat

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

func chmod(path string) error { return os.Chmod(path, 0o755) }

// gitLabJob is the environment of a job whose registry is at host.
func (k *kit) gitLabJob(host string) {
	k.env["CI_REGISTRY"], k.env["CI_REGISTRY_USER"], k.env["CI_REGISTRY_PASSWORD"] = host, user, password
}

// basic lets in one user and passes what it asks on to the shared registry.
func (k *kit) basic(n *internet, host, name, secret string) {
	n.host(host, guarded(name, secret, forward(k.registry)))
}

// cloudRegistryRows are about the registries of clouds and of forges.
func cloudRegistryRows() []row {
	return []row{
		{
			kind: authKind, name: "Google's registries", kaniko: "a built-in helper: a service account, gcloud's user, Workload Identity",
			does: "the same for `*.pkg.dev`, `gcr.io` and `*.gcr.io`, and for no other host",
			run: func(t *testing.T, k *kit) {
				g := k.google(t)
				k.scratch()
				k.env["GOOGLE_APPLICATION_CREDENTIALS"] = k.write("key.json", g.key)
				for _, host := range []string{"europe-docker.pkg.dev", "gcr.io", "eu.gcr.io"} {
					k.basic(g.n, host, "oauth2accesstoken", "google-token")
					k.exec("--context=ctx", k.to(host)).ok()
				}
				k.at(k.repo)
				// A service account of GKE's Workload Identity.
				delete(k.env, "GOOGLE_APPLICATION_CREDENTIALS")
				k.env["GCE_METADATA_HOST"] = strings.TrimPrefix(instance(t, map[string]string{
					"GET /computeMetadata/v1/instance/service-accounts/default/token": `{"access_token":"google-token","expires_in":3600}`,
				}, "Metadata-Flavor", "Google"), "http://")
				k.exec("--context=ctx", k.to("gcr.io")).ok()
				for _, host := range []string{"gcr.io.example.com", "xgcr.io", "pkg.dev.example.com"} {
					k.basic(g.n, host, "nobody", "")
					k.exec("--context=ctx", k.to(host)).fails("UNAUTHORIZED", "without credentials")
					for _, r := range g.n.asked(host) {
						if r.authorization != "" {
							t.Errorf("%s got %s", host, r.authorization)
						}
					}
				}
			},
		},
		{
			kind: authKind, name: "Amazon's ECR", kaniko: "a built-in helper: the default chain of credentials",
			does: "the same for private registries and public.ecr.aws, in the region of their names, and for no other host",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				token := base64.StdEncoding.EncodeToString([]byte("AWS:ecr-password"))
				n.host("api.ecr.eu-west-1.amazonaws.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !strings.Contains(r.Header.Get("Authorization"), "Credential=id/") || !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/ecr/aws4_request") {
						http.Error(w, `{"__type":"InvalidSignatureException"}`, http.StatusForbidden)
						return
					}
					fmt.Fprintf(w, `{"authorizationData":[{"authorizationToken":%q,"expiresAt":4.1e9}]}`, token)
				}))
				const host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
				k.basic(n, host, "AWS", "ecr-password")
				k.scratch()
				k.env[noRole] = "true"
				k.exec("--context=ctx", k.to(host)).fails("UNAUTHORIZED", "without credentials")
				k.env["AWS_ACCESS_KEY_ID"], k.env["AWS_SECRET_ACCESS_KEY"] = "id", "secret"
				k.exec("--context=ctx", k.to(host)).ok()
				k.at(k.repo)
				// As kaniko's users have it in config.json.
				k.write("home/.docker/config.json", `{"credsStore":"ecr-login"}`)
				k.exec("--context=ctx", k.to(host)).ok()
				k.env["AWS_ACCESS_KEY_ID"] = "other"
				k.exec("--context=ctx", k.to(host)).fails("UNAUTHORIZED", "get a login for "+host+" with the access key other of the environment")
				evil := host + ".example.com"
				k.basic(n, evil, "nobody", "")
				k.exec("--context=ctx", k.to(evil)).fails("UNAUTHORIZED")
				for _, r := range n.asked(evil) {
					if r.authorization != "" {
						t.Errorf("%s got %s", evil, r.authorization)
					}
				}
			},
		},
		{
			kind: authKind, name: "Azure's ACR", kaniko: "`acr-env` for one registry or `acr` for all; older versions send the token to hosts whose names look like a registry's",
			does: "the same without any config, for one name below azurecr.io, azurecr.cn and azurecr.us exactly: a service principal, a workload identity, a managed identity",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				n.host("login.microsoftonline.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.PostFormValue("client_secret") != "s3cret" || r.PostFormValue("scope") != "https://containerregistry.azure.net/.default" {
						http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
						return
					}
					fmt.Fprint(w, `{"access_token":"azure-token","expires_in":3600}`)
				}))
				k.acr(n, "mycr.azurecr.io")
				k.scratch()
				k.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = "http://" + nowhere()
				k.exec("--context=ctx", k.to("mycr.azurecr.io")).fails("UNAUTHORIZED", "without credentials")
				k.env["AZURE_CLIENT_ID"], k.env["AZURE_TENANT_ID"], k.env["AZURE_CLIENT_SECRET"] = "app", "tenant", "s3cret"
				k.exec("--context=ctx", k.to("mycr.azurecr.io")).ok()
				k.at(k.repo)
				k.write("home/.docker/config.json", `{"credHelpers":{"mycr.azurecr.io":"acr-env"}}`)
				k.exec("--context=ctx", k.to("mycr.azurecr.io")).ok()
				k.write("home/.docker/config.json", `{"credsStore":"acr"}`)
				k.exec("--context=ctx", k.to("mycr.azurecr.io")).ok()
				for _, evil := range []string{"azurecr.io.example.com", "myazurecr.io", "a.b.azurecr.io"} {
					k.acr(n, evil)
					k.exec("--context=ctx", k.to(evil)).fails("UNAUTHORIZED")
					for _, r := range n.asked(evil) {
						if r.authorization != "" || strings.Contains(r.path, "exchange") {
							t.Errorf("%s was asked %s with %q", evil, r.path, r.authorization)
						}
					}
				}
			},
		},
		{
			kind: envKind, name: "AZURE_ENVIRONMENT", kaniko: "of the forks: which of Azure's clouds", does: "which of Azure's clouds; by default that of the registry's domain",
			run: func(_ *testing.T, k *kit) {
				n := k.online()
				for _, login := range []string{"login.chinacloudapi.cn", "login.microsoftonline.us"} {
					n.host(login, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						fmt.Fprint(w, `{"access_token":"azure-token","expires_in":3600}`)
					}))
				}
				k.acr(n, "mycr.azurecr.cn")
				k.env["AZURE_CLIENT_ID"], k.env["AZURE_TENANT_ID"], k.env["AZURE_CLIENT_SECRET"] = "app", "tenant", "s3cret"
				k.scratch()
				k.exec("--context=ctx", k.to("mycr.azurecr.cn")).ok()
				equal(k.t, "requests to China", len(n.asked("login.chinacloudapi.cn")), 1)
				k.env["AZURE_ENVIRONMENT"] = "AZUREUSGOVERNMENT"
				k.exec("--context=ctx", k.to("mycr.azurecr.cn")).ok()
				equal(k.t, "requests to the government's", len(n.asked("login.microsoftonline.us")), 1)
				k.env["AZURE_ENVIRONMENT"] = "AZUREMOON"
				k.exec("--context=ctx", k.to("mycr.azurecr.cn")).fails("AZURE_ENVIRONMENT=AZUREMOON: want AZUREPUBLICCLOUD")
			},
		},
		{
			kind: authKind, name: "GitLab's registry in a job", kaniko: "of the forks: a helper",
			does: "CI_REGISTRY_USER and _PASSWORD, or CI_JOB_TOKEN, for $CI_REGISTRY exactly",
			run: func(_ *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.scratch()
				k.gitLabJob(host)
				k.exec("--context=ctx", k.to(host)).ok()
				k.gitLabJob("registry.gitlab.com")
				k.exec("--context=ctx", k.to(host)).fails("UNAUTHORIZED", "without credentials")
			},
		},
		{
			kind: envKind, name: "KANIKO_<HOST>_USER, KANIKO_<HOST>_PASSWORD", kaniko: "of the forks: credentials for a host, in capitals with `_` for `.` and `-`, or for a domain above it",
			does: "credentials for a host, in capitals with `_` for `.`, `-` and `:`, or for a domain above it",
			run: func(_ *testing.T, k *kit) {
				n := k.online()
				k.basic(n, "my-registry.example.com", user, password)
				k.scratch()
				for _, prefix := range []string{"KANIKO_MY_REGISTRY_EXAMPLE_COM", "KANIKO_EXAMPLE_COM"} {
					k.env[prefix+"_USER"], k.env[prefix+"_PASSWORD"] = user, password
					k.exec("--context=ctx", k.to("my-registry.example.com")).ok()
					k.env[prefix+"_PASSWORD"] = "wrong"
					k.exec("--context=ctx", k.to("my-registry.example.com")).fails("UNAUTHORIZED", "with "+prefix+"_USER and _PASSWORD of the environment").hushes("wrong")
					delete(k.env, prefix+"_USER")
				}
			},
		},
		{
			kind: flagKind, name: "--credential-helpers", kaniko: "of the forks: `env,google,ecr,acr,gitlab`",
			does: "the built-in sources to ask after Docker's config, in this order; empty for none; repeatable",
			run: func(_ *testing.T, k *kit) {
				host := k.guardedRegistry()
				k.scratch()
				k.gitLabJob(host)
				k.exec("--context=ctx", k.to(host), "--credential-helpers=env,google").fails("UNAUTHORIZED")
				k.exec("--context=ctx", k.to(host), "--credential-helpers=").fails("UNAUTHORIZED")
				k.exec("--context=ctx", k.to(host), "--credential-helpers=env", "--credential-helpers=gitlab").ok()
				k.exec("--context=ctx", k.to(host), "--credential-helpers=vault").fails(`credential helper "vault" is not known: want some of env, google, ecr, acr, gitlab`)
			},
		},
	}
}

// acr is a registry of Azure's: its own refresh tokens for those of Azure, and
// access tokens for these.
func (k *kit) acr(n *internet, host string) {
	next := forward(k.registry)
	n.host(host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/oauth2/exchange" && r.PostFormValue("access_token") == "azure-token" && r.PostFormValue("service") == host:
			fmt.Fprint(w, `{"refresh_token":"acr-refresh"}`)
		case r.URL.Path == "/oauth2/token" && r.PostFormValue("refresh_token") == "acr-refresh":
			fmt.Fprint(w, `{"access_token":"acr-access"}`)
		case r.Header.Get("Authorization") == "Bearer acr-access":
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+host+`/oauth2/token",service="`+host+`"`)
			status(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")(w, r)
		}
	}))
}
