package cloud

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// options are those of a machine with the environment env and files in HOME.
func options(t *testing.T, env map[string]string, files map[string]string) Options {
	t.Helper()
	home := t.TempDir()
	for name, content := range files {
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Now: time.Now, Wait: time.Millisecond, Env: func(name string) string {
		if name == "HOME" {
			return home
		}
		return strings.ReplaceAll(env[name], "$HOME", home)
	}}
}

// serve answers requests by "METHOD path" with a body, or 404.
func serve(t *testing.T, answers map[string]func(r *http.Request) string) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Metadata-Flavor", "Google")
		body := f(r)
		if body == "" {
			w.WriteHeader(http.StatusForbidden)
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(srv.Close)
	return srv
}

const keyJSON = `{"AccessKeyId":"ASIA","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}`

// Every place of AWS's chain is used, in the order of the chain, and what is
// broken is an error instead of the next place's.
func TestAWSKey(t *testing.T) {
	srv := serve(t, map[string]func(r *http.Request) string{
		"GET /ecs": func(r *http.Request) string {
			if r.Header.Get("Authorization") != "token" {
				return ""
			}
			return keyJSON
		},
		"PUT /imds/latest/api/token": func(*http.Request) string { return "imds-token" },
		"GET /imds/latest/meta-data/iam/security-credentials/": func(r *http.Request) string {
			if r.Header.Get("X-Aws-Ec2-Metadata-Token") != "imds-token" {
				return ""
			}
			return "builder"
		},
		"GET /imds/latest/meta-data/iam/security-credentials/builder": func(*http.Request) string { return keyJSON },
		"POST /sts/": func(r *http.Request) string {
			if r.FormValue("WebIdentityToken") != "jwt" || r.FormValue("Action") != "AssumeRoleWithWebIdentity" {
				return ""
			}
			return `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`
		},
	})
	files := map[string]string{
		".aws/credentials": "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = x\n[other]\naws_access_key_id=AKIAOTHER\naws_secret_access_key=y ; note\n",
		".aws/config":      "[default]\nregion = eu-north-1\n[profile other]\nregion=eu-west-3\n[profile sso]\nsso_session = s\n",
		"token":            "jwt\n",
	}
	off := map[string]string{"AWS_EC2_METADATA_DISABLED": "true"}
	for name, tc := range map[string]struct {
		env   map[string]string
		files map[string]string
		want  string // From, or the error
		isErr bool
	}{
		"environment":   {map[string]string{"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "x"}, files, "access key AKIAENV of the environment", false},
		"default":       {off, files, "access key AKIADEFAULT of profile default", false},
		"profile":       {map[string]string{"AWS_PROFILE": "other"}, files, "access key AKIAOTHER of profile other", false},
		"no profile":    {map[string]string{"AWS_PROFILE": "gone"}, files, `AWS profile "gone" (AWS_PROFILE, or a source_profile) is neither`, true},
		"sso, nowhere":  {map[string]string{"AWS_PROFILE": "sso"}, files, "there is no [sso-session s] in", true},
		"web identity":  {map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "$HOME/token", "AWS_ROLE_ARN": "arn:r", "AWS_ENDPOINT_URL_STS": srv.URL + "/sts"}, map[string]string{"token": "jwt\n"}, "role arn:r (web identity)", false},
		"web, refused":  {map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "$HOME/token", "AWS_ROLE_ARN": "arn:r", "AWS_ENDPOINT_URL_STS": srv.URL + "/sts"}, map[string]string{"token": "bad"}, "assume role arn:r with the web identity in", true},
		"container":     {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": srv.URL + "/ecs", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "token"}, nil, "the role of this container", false},
		"container, no": {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": srv.URL + "/ecs"}, nil, "get the credentials of this container: 127.0.0.1:", true},
		"elsewhere":     {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://192.0.2.1/"}, nil, "not one of a metadata service", true},
		"instance":      {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": srv.URL + "/imds"}, nil, "instance role builder", false},
		"no role":       {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": srv.URL + "/nowhere"}, nil, "", false},
		"nothing":       {off, nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := NewAWS(options(t, tc.env, tc.files)).Key(t.Context())
			switch {
			case tc.isErr:
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error = %v, want %q", err, tc.want)
				}
			case err != nil:
				t.Error(err)
			case k == nil && tc.want != "" || k != nil && k.From != tc.want:
				t.Errorf("key = %+v, want from %q", k, tc.want)
			}
		})
	}
	for env, want := range map[string]string{"": "eu-north-1", "AWS_DEFAULT_REGION": "r", "AWS_REGION": "r"} {
		if got, err := NewAWS(options(t, map[string]string{env: "r"}, files)).Region(); err != nil || got != want {
			t.Errorf("region with %q = %q, %v", env, got, err)
		}
	}
}

// jwtClaims verifies an assertion and returns its claims.
func jwtClaims(t *testing.T, key *rsa.PrivateKey, jwt string) map[string]any {
	t.Helper()
	parts := strings.Split(jwt, ".")
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], sig); err != nil {
		t.Fatal(err)
	}
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// Every kind of Google credentials gets a token; it is kept until it expires.
func TestGoogleToken(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKCS8PrivateKey(key)
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	var asked atomic.Int32
	ok := func(form map[string]string) func(r *http.Request) string {
		return func(r *http.Request) string {
			asked.Add(1)
			for k, v := range form {
				if r.FormValue(k) != v {
					t.Errorf("%s = %q, want %q", k, r.FormValue(k), v)
				}
			}
			return `{"access_token":"good","expires_in":3600}`
		}
	}
	var srv *httptest.Server
	srv = serve(t, map[string]func(r *http.Request) string{
		"POST /jwt": func(r *http.Request) string {
			claims := jwtClaims(t, key, r.FormValue("assertion"))
			if claims["iss"] != "sa@p" || claims["scope"] != "scope" || claims["aud"] != srv.URL+"/jwt" {
				t.Errorf("claims = %v", claims)
			}
			return ok(map[string]string{"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"})(r)
		},
		"POST /user": ok(map[string]string{"refresh_token": "r", "client_id": "c", "client_secret": "s"}),
		"POST /sts":  ok(map[string]string{"subject_token": "subject", "audience": "aud"}),
		"POST /aws": func(r *http.Request) string {
			text, err := url.QueryUnescape(r.FormValue("subject_token"))
			for _, want := range []string{`"url":"https://sts.eu-west-1.amazonaws.com?Action=GetCallerIdentity`, `"key":"host","value":"sts.eu-west-1.amazonaws.com"`,
				`"key":"x-goog-cloud-target-resource","value":"aud"`, "Credential=AKIA/", "x-goog-cloud-target-resource"} {
				if err != nil || !strings.Contains(text, want) {
					t.Errorf("subject = %s, %v, want %s", text, err, want)
				}
			}
			return ok(nil)(r)
		},
		"GET /oidc": func(r *http.Request) string {
			if r.Header.Get("Authorization") != "Bearer request" {
				return ""
			}
			return "subject\n"
		},
		"POST /iam/sa@q:generateAccessToken": func(r *http.Request) string {
			if r.Header.Get("Authorization") != "Bearer good" {
				return ""
			}
			return `{"accessToken":"better","expireTime":"2099-01-01T00:00:00Z"}`
		},
		"GET /computeMetadata/v1/instance/service-accounts/default/token": ok(nil),
	})
	account, _ := json.Marshal(map[string]string{"type": "service_account", "client_email": "sa@p", "private_key": private, "token_uri": srv.URL + "/jwt"})
	user := fmt.Sprintf(`{"type":"authorized_user","client_id":"c","client_secret":"s","refresh_token":"r","token_uri":"%s/user"}`, srv.URL)
	external := `{"type":"external_account","audience":"aud","token_url":"%s/sts","credential_source":{"file":"%s","format":{"type":"json","subject_token_field_name":"t"}}%s}`
	subject := filepath.Join(t.TempDir(), "subject")
	if err := os.WriteFile(subject, []byte(`{"t":"subject"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(srv.URL, "http://")
	adc := map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "$HOME/adc"}
	for name, tc := range map[string]struct {
		env, files  map[string]string
		value, from string
	}{
		"service account": {adc, map[string]string{"adc": string(account)}, "good", "service account sa@p"},
		"user":            {nil, map[string]string{".config/gcloud/application_default_credentials.json": user}, "good", "the gcloud user of "},
		"external":        {adc, map[string]string{"adc": fmt.Sprintf(external, srv.URL, subject, "")}, "good", "external account aud"},
		"impersonated": {adc, map[string]string{"adc": fmt.Sprintf(external, srv.URL, subject, `,"service_account_impersonation_url":"`+srv.URL+`/iam/sa@q:generateAccessToken"`)},
			"better", "service account sa@q, impersonated by external account aud"},
		"impersonation of a user": {adc, map[string]string{"adc": `{"type":"impersonated_service_account","service_account_impersonation_url":"` + srv.URL + `/iam/sa@q:generateAccessToken","source_credentials":` + user + `}`},
			"better", "service account sa@q, impersonated by the gcloud user"},
		"subject from a URL": {adc, map[string]string{"adc": fmt.Sprintf(`{"type":"external_account","audience":"aud","token_url":"%s/sts","credential_source":{"url":"%s/oidc","headers":{"Authorization":"Bearer request"}}}`, srv.URL, srv.URL)}, "good", "external account aud"},
		"subject from AWS": {map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "$HOME/adc", "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s"},
			map[string]string{"adc": fmt.Sprintf(`{"type":"external_account","audience":"aud","token_url":"%s/aws","credential_source":{"environment_id":"aws1"}}`, srv.URL)}, "good", "external account aud"},
		"metadata": {map[string]string{"GCE_METADATA_HOST": host}, nil, "good", "the service account of this machine or pod"},
		"nothing":  {map[string]string{"GCE_METADATA_HOST": host + "/nowhere"}, nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewGoogle("scope", options(t, tc.env, tc.files))
			got, err := g.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if tc.value == "" {
				if got != nil {
					t.Errorf("token = %+v", got)
				}
				return
			}
			if got == nil || got.Value != tc.value || !strings.HasPrefix(got.From, tc.from) {
				t.Fatalf("token = %+v, want %q from %q", got, tc.value, tc.from)
			}
			before := asked.Load()
			if again, err := g.Token(t.Context()); err != nil || again.Value != tc.value || asked.Load() != before {
				t.Errorf("asked again: %v, %v", again, err)
			}
		})
	}
	for content, want := range map[string]string{
		`{"type":"gdch_service_account"}`:                                     `credentials of type "gdch_service_account" are not supported`,
		`{"type":"impersonated_service_account"}`:                             "source_credentials of the impersonated_service_account cannot be used",
		`{"type":"service_account","private_key":"x"}`:                        "private_key is not PEM",
		`{"type":"external_account","credential_source":{"url":"http://%%"}}`: "the url of credential_source is not valid",
		`{"type":"external_account"}`:                                         "only a credential_source with a file",
		`{"type":"authorized_user","token_uri":"` + srv.URL + `/gone"}`:       "answered 404",
		`x`: "not a credentials file",
	} {
		_, err := NewGoogle("scope", options(t, adc, map[string]string{"adc": content})).Token(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "GOOGLE_APPLICATION_CREDENTIALS=") {
			t.Errorf("error = %v, want %q", err, want)
		}
	}
}

// A token service that is out of order is asked again.
func TestTokenRetry(t *testing.T) {
	var n atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Metadata-Flavor", "Google")
		_, _ = w.Write([]byte(`{"access_token":"t"}`))
	}))
	defer srv.Close()
	got, err := NewGoogle("s", options(t, map[string]string{"GCE_METADATA_HOST": strings.TrimPrefix(srv.URL, "http://")}, nil)).Token(t.Context())
	if err != nil || got == nil || got.Value != "t" {
		t.Errorf("token = %+v, %v", got, err)
	}
}

// Azure's identities are found: of the environment, of an app, of the machine.
func TestAzureToken(t *testing.T) {
	srv := serve(t, map[string]func(r *http.Request) string{
		"POST /tenant/oauth2/v2.0/token": func(r *http.Request) string {
			if r.FormValue("scope") != "https://storage.azure.com/.default" || r.FormValue("client_assertion") != "jwt" && r.FormValue("client_secret") != "s" {
				return ""
			}
			return `{"access_token":"good","expires_in":3600}`
		},
		"GET /app": func(r *http.Request) string {
			if r.Header.Get("X-Identity-Header") != "h" || r.FormValue("resource") != "https://storage.azure.com" {
				return ""
			}
			return `{"access_token":"good","expires_on":"4102444800"}`
		},
		"GET /metadata/identity/oauth2/token": func(r *http.Request) string {
			if r.Header.Get("Metadata") != "true" {
				return ""
			}
			return `{"access_token":"good","expires_in":"3600"}`
		},
	})
	login := map[string]string{"AZURE_CLIENT_ID": "app", "AZURE_TENANT_ID": "tenant", "AZURE_AUTHORITY_HOST": srv.URL + "/"}
	with := func(more ...string) map[string]string {
		out := map[string]string{}
		for k, v := range login {
			out[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	for name, tc := range map[string]struct {
		env  map[string]string
		want string
	}{
		"secret":            {with("AZURE_CLIENT_SECRET", "s"), "client secret of application app"},
		"workload identity": {with("AZURE_FEDERATED_TOKEN_FILE", "$HOME/token"), "workload identity of application app"},
		"app":               {map[string]string{"IDENTITY_ENDPOINT": srv.URL + "/app", "IDENTITY_HEADER": "h"}, "the managed identity of this machine"},
		"machine":           {map[string]string{"AZURE_POD_IDENTITY_AUTHORITY_HOST": srv.URL, "AZURE_CLIENT_ID": "x"}, "managed identity x"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := NewAzure("https://storage.azure.com", "https://nowhere.invalid", options(t, tc.env, map[string]string{"token": "jwt"})).Token(t.Context())
			if err != nil || got == nil || got.Value != "good" || got.From != tc.want {
				t.Errorf("token = %+v, %v", got, err)
			}
		})
	}
	_, err := NewAzure("https://storage.azure.com", "", options(t, with("AZURE_CLIENT_SECRET", "wrong"), nil)).Token(t.Context())
	if err == nil || !strings.Contains(err.Error(), "client secret of application app: 127.0.0.1:") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("error = %v", err)
	}
	none := options(t, map[string]string{"AZURE_POD_IDENTITY_AUTHORITY_HOST": srv.URL + "/nowhere"}, nil)
	if got, err := NewAzure("r", "", none).Token(t.Context()); got != nil || err != nil {
		t.Errorf("token = %+v, %v", got, err)
	}
}
