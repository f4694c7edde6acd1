package cloud

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func sha1Hex(s string) string {
	sum := sha1.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Only the registries of a cloud are taken for them, and never a host that
// looks like one.
func TestRegistryHosts(t *testing.T) {
	for host, want := range map[string]string{
		"gcr.io": "google", "us.gcr.io": "google", "europe-west1-docker.pkg.dev": "google",
		"notgcr.io": "", "gcr.io.evil.example": "", "gcr.io:5000": "", "pkg.dev": "", "evilpkg.dev": "", "docker.pkg.dev.evil": "",
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com":      "ecr",
		"123456789012.dkr.ecr-fips.us-east-1.amazonaws.com": "ecr",
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn":  "ecr",
		"123456789012.dkr-ecr.eu-west-1.on.aws":             "ecr",
		"public.ecr.aws":                                    "ecr",
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil": "", "12345678901.dkr.ecr.eu-west-1.amazonaws.com": "",
		"x123456789012.dkr.ecr.eu-west-1.amazonaws.com": "", "123456789012.dkr.ecr.evil.example.amazonaws.com": "",
		"123456789012.dkr.ecr.eu-west-1.amazonawsXcom": "", "evil.public.ecr.aws": "",
		"team.azurecr.io": "acr", "team-x1.azurecr.cn": "acr", "team.azurecr.us": "acr",
		"azurecr.io": "", "team.azurecr.io.evil.example": "", "teamazurecr.io": "", "team.azurecr.de": "", "a.b.azurecr.io": "",
		"team.azurecr.io:444": "", ".azurecr.io": "", "evil.example": "", "team.azurecr.iox": "",
	} {
		var got []string
		if IsGoogle(host) {
			got = append(got, "google")
		}
		if IsECR(host) {
			got = append(got, "ecr")
		}
		if IsACR(host) {
			got = append(got, "acr")
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s is %v, want %q", host, got, want)
		}
	}
}

// everywhere sends all requests to one server, whatever their host is.
type everywhere struct {
	to    string
	mu    sync.Mutex
	hosts []string
}

func (e *everywhere) RoundTrip(req *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.hosts = append(e.hosts, req.URL.Host)
	e.mu.Unlock()
	out := req.Clone(req.Context())
	out.Host = req.URL.Host
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", e.to)
	}}
	defer tr.CloseIdleConnections()
	out.URL.Scheme = "http"
	return tr.RoundTrip(out)
}

// Every kind of ECR is asked at its own endpoint, in its own region, with a
// signature that covers the body.
func TestECR(t *testing.T) {
	var asked int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		auth, target := r.Header.Get("Authorization"), r.Header.Get("X-Amz-Target")
		if r.Header.Get("X-Amz-Security-Token") != "session" || !strings.Contains(auth, "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-security-token;x-amz-target") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		scope := strings.Split(auth, "/")
		text := base64.StdEncoding.EncodeToString([]byte("AWS:" + r.Host + " " + scope[2] + " " + scope[3]))
		data := fmt.Sprintf(`{"authorizationToken":%q,"expiresAt":%d}`, text, time.Now().Add(12*time.Hour).Unix())
		var body struct{ RegistryIDs []string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		switch {
		case target == "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" && len(body.RegistryIDs) == 1 && body.RegistryIDs[0] == "123456789012":
			_, _ = w.Write([]byte(`{"authorizationData":[` + data + `]}`))
		case target == "SpencerFrontendService.GetAuthorizationToken" && len(body.RegistryIDs) == 0:
			_, _ = w.Write([]byte(`{"authorizationData":` + data + `}`))
		default:
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer srv.Close()
	tr := &everywhere{to: strings.TrimPrefix(srv.URL, "http://")}
	opt := options(t, map[string]string{"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "session", "AWS_REGION": "elsewhere"}, nil)
	opt.Transport = tr
	l := NewLogins(opt)
	for host, want := range map[string]string{
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com":          "api.ecr.eu-west-1.amazonaws.com eu-west-1 ecr",
		"123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com": "ecr-fips.us-gov-west-1.amazonaws.com us-gov-west-1 ecr",
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn":      "api.ecr.cn-north-1.amazonaws.com.cn cn-north-1 ecr",
		"123456789012.dkr-ecr.eu-west-1.on.aws":                 "ecr.eu-west-1.api.aws eu-west-1 ecr",
		"public.ecr.aws":                                        "api.ecr-public.us-east-1.amazonaws.com us-east-1 ecr-public",
	} {
		got, err := l.ECR(t.Context(), host)
		if err != nil || got == nil || got.Username != "AWS" || got.Password != want || got.From != "access key AKIA of the environment" {
			t.Errorf("%s: %+v, %v, want password %q", host, got, err, want)
		}
		before := asked
		if again, err := l.ECR(t.Context(), host); err != nil || again.Password != want || asked != before {
			t.Errorf("%s is asked for again: %v", host, err)
		}
	}
	tr.hosts = nil
	for _, host := range []string{"123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", "team.azurecr.io", "evil.example"} {
		if got, err := l.ECR(t.Context(), host); got != nil || err != nil || len(tr.hosts) > 0 {
			t.Errorf("%s: %+v, %v; asked %v", host, got, err, tr.hosts)
		}
	}
	opt.Env = options(t, map[string]string{"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "hunter2"}, nil).Env
	_, err := NewLogins(opt).ECR(t.Context(), "public.ecr.aws")
	if err == nil || !strings.Contains(err.Error(), "get a login for public.ecr.aws with the access key AKIA of the environment: api.ecr-public.us-east-1.amazonaws.com answered 403") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error = %v", err)
	}
	opt.Env = options(t, map[string]string{"AWS_EC2_METADATA_DISABLED": "true"}, nil).Env
	if got, err := NewLogins(opt).ECR(t.Context(), "public.ecr.aws"); got != nil || err != nil {
		t.Errorf("without credentials: %+v, %v", got, err)
	}
}

// A token of Azure's is traded at the registry itself, and nowhere else.
func TestACR(t *testing.T) {
	claims := base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(3*time.Hour).Unix())))
	refresh := "e30." + claims + ".sig"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host == "redirects.azurecr.io":
			http.Redirect(w, r, "https://evil.example/oauth2/exchange", http.StatusTemporaryRedirect)
		case r.URL.Path == "/tenant/oauth2/v2.0/token" && r.FormValue("scope") == "https://containerregistry.azure.net/.default":
			_, _ = fmt.Fprintf(w, `{"access_token":"aad from %s","expires_in":3600}`, r.Host)
		case r.URL.Path == "/oauth2/exchange" && r.Host == r.FormValue("service") && r.FormValue("tenant") == "tenant" && strings.HasPrefix(r.FormValue("access_token"), "aad from "):
			w.Header().Set("X-From", r.FormValue("access_token"))
			_, _ = fmt.Fprintf(w, `{"refresh_token":%q}`, refresh)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	env := map[string]string{"AZURE_CLIENT_ID": "app", "AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_SECRET": "hunter2"}
	login := func(host string, more map[string]string) (*Login, []string, error) {
		all := map[string]string{}
		for _, m := range []map[string]string{env, more} {
			for k, v := range m {
				all[k] = v
			}
		}
		tr := &everywhere{to: strings.TrimPrefix(srv.URL, "http://")}
		opt := options(t, all, nil)
		opt.Transport = tr
		got, err := NewLogins(opt).ACR(t.Context(), host)
		return got, tr.hosts, err
	}
	for host, authority := range map[string]string{
		"team.azurecr.io": "login.microsoftonline.com", "team.azurecr.cn": "login.chinacloudapi.cn", "team.azurecr.us": "login.microsoftonline.us",
	} {
		got, hosts, err := login(host, nil)
		if err != nil || got == nil || got.IdentityToken != refresh || got.Username != "" || got.From != "client secret of application app" {
			t.Fatalf("%s: %+v, %v", host, got, err)
		}
		if want := authority + " " + host; strings.Join(hosts, " ") != want {
			t.Errorf("%s: asked %v, want %s", host, hosts, want)
		}
		if left := time.Until(got.Expires); left < 2*time.Hour {
			t.Errorf("%s: good for %v", host, left)
		}
	}
	if _, hosts, err := login("team.azurecr.io", map[string]string{"AZURE_ENVIRONMENT": "AZUREUSGOVERNMENT"}); err != nil || hosts[0] != "login.microsoftonline.us" {
		t.Errorf("AZURE_ENVIRONMENT: asked %v, %v", hosts, err)
	}
	if _, _, err := login("team.azurecr.io", map[string]string{"AZURE_ENVIRONMENT": "MOON"}); err == nil || !strings.Contains(err.Error(), "AZURE_ENVIRONMENT=MOON: want") {
		t.Errorf("error = %v", err)
	}
	for _, host := range []string{"team.azurecr.io.evil.example", "evilazurecr.io", "team.azurecr.io:8443", "a.team.azurecr.io", "evil.example"} {
		if got, hosts, err := login(host, nil); got != nil || err != nil || len(hosts) > 0 {
			t.Errorf("%s: %+v, %v; asked %v", host, got, err, hosts)
		}
	}
	_, hosts, err := login("redirects.azurecr.io", map[string]string{"AZURE_TENANT_ID": "tenant"})
	if err == nil || strings.Contains(strings.Join(hosts, " "), "evil") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("redirect: %v; asked %v", err, hosts)
	}
}

// A Google token goes to Google's registries only.
func TestGoogleLogin(t *testing.T) {
	srv := serve(t, map[string]func(r *http.Request) string{
		"POST /user": func(*http.Request) string { return `{"access_token":"ya29","expires_in":3600}` },
	})
	opt := options(t, map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "$HOME/adc"}, map[string]string{
		"adc": fmt.Sprintf(`{"type":"authorized_user","client_id":"c","client_secret":"s","refresh_token":"r","token_uri":"%s/user"}`, srv.URL)})
	l := NewLogins(opt)
	for host, want := range map[string]bool{"gcr.io": true, "eu.gcr.io": true, "us-docker.pkg.dev": true, "gcr.io.evil.example": false, "evilgcr.io": false} {
		got, err := l.Google(t.Context(), host)
		if err != nil || (got != nil) != want || want && (got.Username != "oauth2accesstoken" || got.Password != "ya29") {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
}
