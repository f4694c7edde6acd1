package compat

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/servers"
)

// google is Google's cloud: a bucket that asks for the token that a service
// account gets.
type google struct {
	n   *internet
	key string // of the service account
	b   string // host of the bucket
}

// google puts the cloud on this row's internet, with a context at
// gs://contexts/<row>.tgz.
func (k *kit) google(t *testing.T) *google {
	t.Helper()
	g := &google{n: k.online(), b: k.gcs}
	k.write("ca.pem", readFile(t, k.ca.file))
	next := forward(g.b)
	g.n.host("storage.googleapis.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer google-token" {
			http.Error(w, "no token", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}))
	g.n.host("oauth2.googleapis.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || strings.Count(r.PostFormValue("assertion"), ".") != 2 {
			http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, `{"access_token":"google-token","expires_in":3600,"token_type":"Bearer"}`)
	}))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	raw, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "kaniko@project.iam.gserviceaccount.com", "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		"token_uri":   "https://oauth2.googleapis.com/token",
	})
	check(t, err)
	g.key = string(raw)
	putGCS(t, g.b, k.name()+".tgz", contextArchive(t, "google"))
	return g
}

// instance is a metadata service: path and method to answer.
func instance(t *testing.T, answers map[string]string, header ...string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// amazon makes a context at s3://contexts/<row>.tgz of S3_ENDPOINT and returns
// its URL.
func (k *kit) amazon(t *testing.T) string {
	t.Helper()
	b := k.s3
	putS3(t, b, k.name()+".tgz", contextArchive(t, "amazon"))
	k.env["S3_ENDPOINT"] = b.URL
	return "s3://contexts/" + k.name() + ".tgz"
}

// microsoft makes a context in Azure's blob storage and returns its URL.
func (k *kit) microsoft(t *testing.T) (*internet, string) {
	t.Helper()
	b, n := k.azure, k.online()
	const host = servers.AzureAccount + ".blob.core.windows.net"
	n.host(host, forward(b))
	putAzure(t, b, k.name()+".tgz", contextArchive(t, "azure"))
	return n, "https://" + host + "/contexts/" + k.name() + ".tgz"
}

// bearer serves a context to those who have a token.
func bearer(token string, content []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			http.Error(w, "no token", http.StatusUnauthorized)
			return
		}
		w.Write(content)
	})
}

// keyAnswer is what a metadata service says of the key for the bucket.
func (k *kit) keyAnswer() string {
	return fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q,"Expiration":"2099-01-01T00:00:00Z"}`, k.s3.AccessKey, k.s3.SecretKey)
}

// noRole is the variable that says that this is no instance.
const noRole = "AWS_EC2_METADATA_DISABLED"

// cloudRows are about contexts in buckets and the credentials for them.
func cloudRows() []row {
	return []row{
		{
			kind: contextKind, name: "gs://bucket[/object]", kaniko: "an archive compressed by gzip; `context.tar.gz` without an object",
			does: "an archive of any form; `#generation` after it pins one, and the generation that was fetched is told", differs: "not only gzip; resumed and pinned",
			run: func(t *testing.T, k *kit) {
				g := k.google(t)
				k.env["GOOGLE_APPLICATION_CREDENTIALS"] = k.write("key.json", g.key)
				k.remote("gs://contexts/"+k.name()+".tgz").holds("f", "google")
				putGCS(t, g.b, "context.tar.gz", contextArchive(t, "by default"))
				k.remote("gs://contexts").holds("f", "by default").lacks("context.tar.gz")
				putGCS(t, g.b, "a b/100% c?.tgz", contextArchive(t, "odd name"))
				k.remote("gs://contexts/a b/100% c?.tgz", "--context-sub-path=sub").holds("sub", "FROM scratch\nCOPY Dockerfile /sub")
				r := k.exec("--no-push", "--context=gs://contexts/"+k.name()+".tgz", "--log-format=text").ok().matches(`context is generation:\d+, sha256:[0-9a-f]{64}`)
				generation := regexp.MustCompile(`generation:(\d+)`).FindStringSubmatch(r.stderr)[1]
				k.remote("gs://contexts/"+k.name()+".tgz#"+generation).holds("f", "google")
				k.exec("--no-push", "--context=gs://contexts/none.tgz").fails("gs://contexts/none.tgz", "not found", "asked as service account kaniko@project.iam.gserviceaccount.com")
			},
		},
		{
			kind: contextKind, name: "s3://bucket[/key]", kaniko: "an archive compressed by gzip, left in the context; `context.tar.gz` without a key",
			does: "an archive of any form, which is not left in the context; `?versionId=` after it pins one", differs: "not only gzip; resumed and pinned",
			run: func(t *testing.T, k *kit) {
				url := k.amazon(t)
				k.env["AWS_ACCESS_KEY_ID"], k.env["AWS_SECRET_ACCESS_KEY"] = k.s3.AccessKey, k.s3.SecretKey
				k.remote(url).holds("f", "amazon").lacks("context.tar.gz", k.name()+".tgz")
				b := k.s3
				putS3(t, b, "context.tar.gz", contextArchive(t, "by default"))
				k.remote("s3://contexts").holds("f", "by default").lacks("context.tar.gz")
				awsCommand(t, b, "s3api", "put-bucket-versioning", "--bucket=contexts", "--versioning-configuration=Status=Enabled")
				putS3(t, b, "versions.tgz", contextArchive(t, "first"))
				r := k.exec("--no-push", "--context=s3://contexts/versions.tgz", "--log-format=text").ok().matches(`context is version:\S+, sha256`)
				version := regexp.MustCompile(`version:(\S+),`).FindStringSubmatch(r.stderr)[1]
				putS3(t, b, "versions.tgz", contextArchive(t, "second"))
				k.remote("s3://contexts/versions.tgz").holds("f", "second")
				k.remote("s3://contexts/versions.tgz?versionId="+version).holds("f", "first")
				k.exec("--no-push", "--context=s3://contexts/none.tgz").fails("s3://contexts/none.tgz", "not found", "NoSuchKey")
			},
		},
		{
			kind: contextKind, name: "https://account.blob.core.windows.net/container/blob", kaniko: "an archive compressed by gzip; an access key only",
			does: "an archive of any form, in all four clouds of Azure; with an access key, a signature in the URL, or an identity", differs: "not only gzip, and not only an access key",
			run: func(t *testing.T, k *kit) {
				n, url := k.microsoft(t)
				k.env["AZURE_STORAGE_ACCESS_KEY"] = servers.AzureKey
				k.remote(url).holds("f", "azure")
				k.exec("--no-push", "--context="+url, "--log-format=text").ok().matches(`context is etag:\S+, sha256`)
				k.exec("--no-push", "--context="+strings.Replace(url, ".tgz", ".none", 1)).fails("not found", "asked with AZURE_STORAGE_ACCESS_KEY for account "+servers.AzureAccount)
				delete(k.env, "AZURE_STORAGE_ACCESS_KEY")
				for _, domain := range []string{"chinacloudapi.cn", "cloudapi.de", "usgovcloudapi.net"} {
					n.host("other.blob.core."+domain, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Query().Get("sig") != "abc=" {
							http.Error(w, "", http.StatusForbidden)
							return
						}
						w.Write(contextArchive(t, "signed"))
					}))
					k.remote("https://other.blob.core."+domain+"/c/x.tgz?sv=1&sig=abc%3D").holds("f", "signed")
				}
				// A name that only looks like Azure's gets no key.
				k.env["AZURE_STORAGE_ACCESS_KEY"] = servers.AzureKey
				n.host("evil.example.com", http.NotFoundHandler())
				k.exec("--no-push", "--context=https://evil.example.com/x.blob.core.windows.net/c.tgz").fails("404")
				equal(t, "authorization", n.asked("evil.example.com")[0].authorization, "")
			},
		},
		{
			kind: envKind, name: "GOOGLE_APPLICATION_CREDENTIALS", kaniko: "a file with a service account's key",
			does: "a file with the key of a service account, a user's or a workload identity federation's credentials",
			run: func(t *testing.T, k *kit) {
				g := k.google(t)
				k.env["GOOGLE_APPLICATION_CREDENTIALS"] = k.write("key.json", g.key)
				k.remote("gs://contexts/"+k.name()+".tgz").holds("f", "google")
				k.env["GOOGLE_APPLICATION_CREDENTIALS"] = k.path("none.json")
				k.exec("--no-push", "--context=gs://contexts/"+k.name()+".tgz").fails("GOOGLE_APPLICATION_CREDENTIALS=" + k.path("none.json"))
			},
		},
		{
			kind: envKind, name: "GCE_METADATA_HOST", kaniko: "the metadata server of the machine, or of GKE's Workload Identity",
			does: "the metadata server of the machine, or of GKE's Workload Identity; 169.254.169.254 by default",
			run: func(t *testing.T, k *kit) {
				k.google(t)
				k.env["GCE_METADATA_HOST"] = strings.TrimPrefix(instance(t, map[string]string{
					"GET /computeMetadata/v1/instance/service-accounts/default/token": `{"access_token":"google-token","expires_in":3600,"token_type":"Bearer"}`,
				}, "Metadata-Flavor", "Google"), "http://")
				k.remote("gs://contexts/"+k.name()+".tgz").holds("f", "google")
				k.env["GCE_METADATA_HOST"] = nowhere()
				k.exec("--no-push", "--context=gs://contexts/"+k.name()+".tgz").fails("no Google credentials were found: set GOOGLE_APPLICATION_CREDENTIALS")
			},
		},
		{
			kind: pathKind, name: "/root/.config/gcloud", kaniko: "gcloud's credentials",
			does: "gcloud's application default credentials, in $HOME or $CLOUDSDK_CONFIG",
			run: func(t *testing.T, k *kit) {
				g := k.google(t)
				k.write("home/.config/gcloud/application_default_credentials.json", g.key)
				k.remote("gs://contexts/"+k.name()+".tgz").holds("f", "google")
				k.env["HOME"], k.env["CLOUDSDK_CONFIG"] = k.path("none"), k.path("home/.config/gcloud")
				k.remote("gs://contexts/"+k.name()+".tgz").holds("f", "google")
			},
		},
		{
			kind: envKind, name: "STORAGE_EMULATOR_HOST", kaniko: "where Google's buckets are instead, without credentials",
			does: "where Google's buckets are instead, without credentials",
			run: func(t *testing.T, k *kit) {
				b := k.gcs
				putGCS(t, b, k.name()+".tgz", contextArchive(t, "emulated"))
				k.env["STORAGE_EMULATOR_HOST"] = b
				k.remote("gs://contexts/"+k.name()+".tgz").holds("f", "emulated")
				k.exec("--no-push", "--context=gs://contexts/none").fails("STORAGE_EMULATOR_HOST is asked without credentials")
			},
		},
		{
			kind: envKind, name: "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN", kaniko: "a key",
			does: "a key",
			run: func(t *testing.T, k *kit) {
				url := k.amazon(t)
				k.env[noRole] = "true"
				k.exec("--no-push", "--context="+url).fails("no AWS credentials were found", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
				k.env["AWS_ACCESS_KEY_ID"], k.env["AWS_SECRET_ACCESS_KEY"] = k.s3.AccessKey, "wrong"
				k.exec("--no-push", "--context="+url).fails("SignatureDoesNotMatch", "asked with access key "+k.s3.AccessKey+" of the environment").hushes("wrong")
				k.env["AWS_SECRET_ACCESS_KEY"] = k.s3.SecretKey
				k.remote(url).holds("f", "amazon")
				n := k.online()
				n.host("contexts.s3.us-east-1.amazonaws.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("X-Amz-Security-Token") != "a-session" || !strings.Contains(r.Header.Get("Authorization"), "x-amz-security-token") {
						http.Error(w, "", http.StatusForbidden)
						return
					}
					w.Write(contextArchive(t, "session"))
				}))
				delete(k.env, "S3_ENDPOINT")
				k.env["AWS_SESSION_TOKEN"] = "a-session"
				k.remote("s3://contexts/x.tgz").holds("f", "session")
			},
		},
		{
			kind: envKind, name: "AWS_REGION, AWS_DEFAULT_REGION, AWS_SDK_LOAD_CONFIG", kaniko: "the region; the shared config is read with AWS_SDK_LOAD_CONFIG=true only",
			does: "the region; without one the bucket's own is found out; the shared config is always read",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				for _, region := range []string{"eu-west-3", "eu-north-1", "sa-east-1"} {
					n.host("contexts.s3."+region+".amazonaws.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if !strings.Contains(r.Header.Get("Authorization"), "/"+region+"/s3/") {
							http.Error(w, "", http.StatusForbidden)
							return
						}
						w.Write(contextArchive(t, region))
					}))
				}
				n.host("contexts.s3.us-east-1.amazonaws.com", status(http.StatusMovedPermanently, "", "", "X-Amz-Bucket-Region", "sa-east-1"))
				k.env["AWS_ACCESS_KEY_ID"], k.env["AWS_SECRET_ACCESS_KEY"] = "id", "secret"
				k.env["AWS_REGION"] = "eu-west-3"
				k.remote("s3://contexts/x.tgz").holds("f", "eu-west-3")
				delete(k.env, "AWS_REGION")
				k.remote("s3://contexts/x.tgz").holds("f", "sa-east-1")
				k.env["AWS_DEFAULT_REGION"] = "eu-north-1"
				k.remote("s3://contexts/x.tgz").holds("f", "eu-north-1")
				delete(k.env, "AWS_DEFAULT_REGION")
				k.write("home/.aws/config", "[default]\nregion = eu-north-1\n")
				k.remote("s3://contexts/x.tgz").holds("f", "eu-north-1")
				k.env["AWS_SDK_LOAD_CONFIG"] = "true"
				k.remote("s3://contexts/x.tgz").holds("f", "eu-north-1")
			},
		},
		{
			kind: envKind, name: "AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE, AWS_CONFIG_FILE", kaniko: "a profile of the shared files",
			does: "a profile of the shared files, with its key, role, SSO or `credential_process`",
			run: func(t *testing.T, k *kit) {
				url := k.amazon(t)
				key := fmt.Sprintf("aws_access_key_id=%s\naws_secret_access_key=%s\n", k.s3.AccessKey, k.s3.SecretKey)
				k.env["AWS_SHARED_CREDENTIALS_FILE"] = k.write("creds", "[default]\naws_access_key_id=x\naws_secret_access_key=y\n[other]\n"+key)
				k.exec("--no-push", "--context="+url).fails("access key x of profile default")
				k.env["AWS_PROFILE"] = "other"
				k.remote(url).holds("f", "amazon")
				k.write("answer", strings.Replace(k.keyAnswer(), "{", `{"Version":1,`, 1))
				k.env["AWS_CONFIG_FILE"] = k.write("config", "[profile sso]\nsso_session = mine\n[profile process]\ncredential_process = cat "+k.path("answer")+"\n")
				k.env["AWS_PROFILE"] = "process"
				k.remote(url).holds("f", "amazon")
				k.env["AWS_PROFILE"] = "sso"
				k.exec("--no-push", "--context="+url).fails("profile sso", "[sso-session mine]")
			},
		},
		{
			kind: pathKind, name: "/root/.aws/credentials", kaniko: "a key of Amazon's",
			does: "a key of Amazon's, in $HOME",
			run: func(t *testing.T, k *kit) {
				url := k.amazon(t)
				k.write("home/.aws/credentials", fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", k.s3.AccessKey, k.s3.SecretKey))
				k.remote(url).holds("f", "amazon")
			},
		},
		{
			kind: envKind, name: "AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN", kaniko: "the role of a pod on EKS",
			does: "the role of a pod on EKS",
			run: func(t *testing.T, k *kit) {
				url := k.amazon(t)
				n := k.online()
				n.host("sts.eu-west-1.amazonaws.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.PostFormValue("WebIdentityToken") != "pod-token" || r.PostFormValue("RoleArn") != "arn:aws:iam::1:role/build" {
						http.Error(w, "<Error/>", http.StatusForbidden)
						return
					}
					fmt.Fprintf(w, "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>", k.s3.AccessKey, k.s3.SecretKey)
				}))
				k.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = k.write("token", "pod-token\n")
				k.env["AWS_REGION"] = "us-east-1"
				k.env["AWS_ENDPOINT_URL_STS"] = "https://sts.eu-west-1.amazonaws.com"
				k.exec("--no-push", "--context="+url).fails("AWS_WEB_IDENTITY_TOKEN_FILE is set but AWS_ROLE_ARN is not")
				k.env["AWS_ROLE_ARN"] = "arn:aws:iam::1:role/build"
				k.remote(url).holds("f", "amazon")
			},
		},
		{
			kind: envKind, name: "AWS_CONTAINER_CREDENTIALS_FULL_URI, AWS_CONTAINER_AUTHORIZATION_TOKEN", kaniko: "the role of a task on ECS or a pod identity on EKS",
			does: "the role of a task on ECS or a pod identity on EKS",
			run: func(t *testing.T, k *kit) {
				url := k.amazon(t)
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Authorization") != "task-token" {
						http.Error(w, "", http.StatusForbidden)
						return
					}
					fmt.Fprint(w, k.keyAnswer())
				}))
				defer server.Close()
				k.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = server.URL + "/creds"
				k.exec("--no-push", "--context="+url).fails("get the credentials of this container")
				k.env["AWS_CONTAINER_AUTHORIZATION_TOKEN"] = "task-token"
				k.remote(url).holds("f", "amazon")
			},
		},
		{
			kind: envKind, name: "AWS_EC2_METADATA_SERVICE_ENDPOINT, AWS_EC2_METADATA_DISABLED", kaniko: "the role of an instance, unless disabled",
			does: "the role of an instance, unless disabled",
			run: func(t *testing.T, k *kit) {
				url := k.amazon(t)
				k.env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = instance(t, map[string]string{
					"PUT /latest/api/token": "t", "GET /latest/meta-data/iam/security-credentials/": "node",
					"GET /latest/meta-data/iam/security-credentials/node": k.keyAnswer(),
				})
				k.remote(url).holds("f", "amazon")
				k.env[noRole] = "true"
				k.exec("--no-push", "--context="+url).fails("no AWS credentials were found")
			},
		},
		{
			kind: envKind, name: "S3_ENDPOINT, S3_FORCE_PATH_STYLE", kaniko: "another server than Amazon's; the bucket in the path with `true`",
			does: "another server than Amazon's; the bucket in the path with `true`, or if the server is an address",
			run: func(t *testing.T, k *kit) {
				k.amazon(t)
				b, n := k.s3, k.online()
				n.host("s3.example.com", forward(strings.TrimPrefix(b.URL, "http://")))
				n.host("contexts.s3.example.com", http.NotFoundHandler())
				k.env["AWS_ACCESS_KEY_ID"], k.env["AWS_SECRET_ACCESS_KEY"] = k.s3.AccessKey, k.s3.SecretKey
				k.env["S3_ENDPOINT"] = "https://s3.example.com"
				k.exec("--no-push", "--context=s3://contexts/"+k.name()+".tgz").fails("404", "at S3_ENDPOINT")
				equal(t, "requests by host", len(n.asked("contexts.s3.example.com")), 1)
				k.env["S3_FORCE_PATH_STYLE"] = "TRUE"
				k.remote("s3://contexts/"+k.name()+".tgz").holds("f", "amazon")
				k.env["S3_ENDPOINT"] = "ftp://x"
				k.exec("--no-push", "--context=s3://contexts/"+k.name()+".tgz").fails("S3_ENDPOINT is not valid: want https://host")
			},
		},
		{
			kind: envKind, name: "AZURE_STORAGE_ACCESS_KEY", kaniko: "the account's key; needed",
			does: "the account's key; without it Azure's identities are used",
			run: func(t *testing.T, k *kit) {
				_, url := k.microsoft(t)
				k.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = "http://" + nowhere()
				k.exec("--no-push", "--context="+url).fails("AZURE_STORAGE_ACCESS_KEY environment variable is not set and no Azure identity was found")
				k.env["AZURE_STORAGE_ACCESS_KEY"] = "d3Jvbmc="
				k.exec("--no-push", "--context="+url).fails("403", "check that the key is one of the account's").hushes("d3Jvbmc=")
				k.env["AZURE_STORAGE_ACCESS_KEY"] = servers.AzureKey
				k.remote(url).holds("f", "azure")
			},
		},
		{
			kind: envKind, name: "AZURE_CLIENT_ID, AZURE_CLIENT_SECRET, AZURE_TENANT_ID", kaniko: "a service principal, for registries only",
			does: "a service principal, for blob storage too",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				n.host("login.microsoftonline.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/tenant/oauth2/v2.0/token" || r.PostFormValue("client_id") != "app" || r.PostFormValue("client_secret") != "s3cret" || r.PostFormValue("scope") != "https://storage.azure.com/.default" {
						http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
						return
					}
					fmt.Fprint(w, `{"access_token":"azure-token","expires_in":3600}`)
				}))
				n.host("acct.blob.core.windows.net", bearer("azure-token", contextArchive(t, "principal")))
				k.env["AZURE_CLIENT_ID"], k.env["AZURE_TENANT_ID"], k.env["AZURE_CLIENT_SECRET"] = "app", "tenant", "s3cret"
				k.remote("https://acct.blob.core.windows.net/c/x.tgz").holds("f", "principal")
				k.env["AZURE_CLIENT_SECRET"] = "stale"
				k.exec("--no-push", "--context=https://acct.blob.core.windows.net/c/x.tgz").fails("get a token with the client secret of application app").hushes("stale")
			},
		},
		{
			kind: envKind, name: "AZURE_FEDERATED_TOKEN_FILE", kaniko: "not known",
			does: "a workload identity, with AZURE_CLIENT_ID and AZURE_TENANT_ID", differs: "more than kaniko",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				n.host("login.microsoftonline.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.PostFormValue("client_assertion") != "pod-token" {
						http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
						return
					}
					fmt.Fprint(w, `{"access_token":"azure-token","expires_in":3600}`)
				}))
				n.host("acct.blob.core.windows.net", bearer("azure-token", contextArchive(t, "workload")))
				k.env["AZURE_CLIENT_ID"], k.env["AZURE_TENANT_ID"], k.env["AZURE_FEDERATED_TOKEN_FILE"] = "app", "tenant", k.write("token", "pod-token")
				k.remote("https://acct.blob.core.windows.net/c/x.tgz").holds("f", "workload")
			},
		},
		{
			kind: envKind, name: "IDENTITY_ENDPOINT, IDENTITY_HEADER, AZURE_POD_IDENTITY_AUTHORITY_HOST", kaniko: "a managed identity, for registries only",
			does: "a managed identity, for blob storage too; that of the machine is at 169.254.169.254",
			run: func(t *testing.T, k *kit) {
				n := k.online()
				n.host("acct.blob.core.windows.net", bearer("azure-token", contextArchive(t, "managed")))
				answer := `{"access_token":"azure-token","expires_in":"3600"}`
				k.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = instance(t, map[string]string{"GET /metadata/identity/oauth2/token": answer})
				k.remote("https://acct.blob.core.windows.net/c/x.tgz").holds("f", "managed")
				k.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = "http://" + nowhere()
				k.env["IDENTITY_ENDPOINT"], k.env["IDENTITY_HEADER"] = instance(t, map[string]string{"GET /msi": answer})+"/msi", "h"
				k.remote("https://acct.blob.core.windows.net/c/x.tgz").holds("f", "managed")
			},
		},
	}
}
