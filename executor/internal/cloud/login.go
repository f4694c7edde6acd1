package cloud

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Login is what a cloud's registry lets somebody in with.
type Login struct {
	Username, Password string
	// IdentityToken is used in place of a name and a password; an OAuth2
	// refresh token of the registry.
	IdentityToken string
	Expires       time.Time // zero: never
	// From says where it comes from, for people.
	From string
}

// Logins finds logins for the registries of clouds. It is safe for concurrent
// use, and asks no host anything that is not a registry of its cloud.
type Logins struct {
	opt    Options
	google *Google
	aws    *AWS

	mu    sync.Mutex
	azure map[string]*Azure // by authority
	known map[string]*Login // by host
}

// NewLogins returns a source of logins.
func NewLogins(opt Options) *Logins {
	return &Logins{
		opt: opt, google: NewGoogle("https://www.googleapis.com/auth/cloud-platform", opt), aws: NewAWS(opt),
		azure: map[string]*Azure{}, known: map[string]*Login{},
	}
}

// IsGoogle tells whether host is a registry of Google's: Artifact Registry or
// Container Registry.
func IsGoogle(host string) bool {
	return host == "gcr.io" || strings.HasSuffix(host, ".gcr.io") || strings.HasSuffix(host, ".pkg.dev")
}

// IsECR tells whether host is a registry of Amazon's, private or public.
func IsECR(host string) bool { return parseECR(host) != nil }

// IsACR tells whether host is a registry of Azure's: one name below exactly one
// of its three domains.
func IsACR(host string) bool {
	name, domain, _ := strings.Cut(host, ".")
	return name != "" && acrAuthority(domain) != ""
}

// acrAuthority is where the users of the cloud log in whose registries have
// this domain; "" if it is none.
func acrAuthority(domain string) string {
	switch domain {
	case "azurecr.io":
		return azurePublic
	case "azurecr.cn":
		return "https://login.chinacloudapi.cn"
	case "azurecr.us":
		return "https://login.microsoftonline.us"
	}
	return ""
}

const azurePublic = "https://login.microsoftonline.com"

// Google returns a login for one of Google's registries, or nil if there are
// no credentials.
func (l *Logins) Google(ctx context.Context, host string) (*Login, error) {
	if !IsGoogle(host) {
		return nil, nil
	}
	return l.remember("gcr.io", func() (*Login, error) { // it is the same for all of them
		t, err := l.google.Token(ctx)
		if err != nil || t == nil {
			return nil, err
		}
		return &Login{Username: "oauth2accesstoken", Password: t.Value, Expires: t.Expires, From: t.From}, nil
	})
}

// remember keeps a login until it is about to expire, and that there is none.
func (l *Logins) remember(host string, find func() (*Login, error)) (*Login, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k, ok := l.known[host]; ok && (k == nil || k.Expires.IsZero() || k.Expires.Sub(l.opt.Now()) > 5*time.Minute) {
		return k, nil
	}
	k, err := find()
	if err == nil {
		l.known[host] = k
	}
	return k, err
}

// ecrHost is what the name of a registry of Amazon's says.
type ecrHost struct {
	account, region string
	endpoint        string // of the service that hands out logins
	public          bool
}

const (
	ecrName = `^(\d{12})\.dkr\.ecr(-fips)?\.([a-z0-9-]+)\.(amazonaws\.com|amazonaws\.com\.cn|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)$`
	ecrDual = `^(\d{12})\.dkr-ecr(-fips)?\.([a-z0-9-]+)\.(on\.aws|on\.amazonwebservices\.com\.cn)$`
)

// parseECR returns nil for a host that is not a registry of Amazon's.
func parseECR(host string) *ecrHost {
	if host == "public.ecr.aws" || host == "ecr-public.aws.com" {
		return &ecrHost{region: "us-east-1", endpoint: "https://api.ecr-public.us-east-1.amazonaws.com", public: true}
	}
	if _, after, _ := strings.Cut(host, "."); !strings.HasPrefix(after, "dkr") {
		return nil
	}
	if m := regexp.MustCompile(ecrName).FindStringSubmatch(host); m != nil {
		service := "api.ecr"
		if m[2] != "" {
			service = "ecr-fips"
		}
		return &ecrHost{account: m[1], region: m[3], endpoint: "https://" + service + "." + m[3] + "." + m[4]}
	}
	if m := regexp.MustCompile(ecrDual).FindStringSubmatch(host); m != nil {
		domain := "api.aws"
		if strings.HasSuffix(m[4], ".cn") {
			domain = "api.amazonwebservices.com.cn"
		}
		return &ecrHost{account: m[1], region: m[3], endpoint: "https://ecr" + m[2] + "." + m[3] + "." + domain}
	}
	return nil
}

// ECR returns a login for one of Amazon's registries, or nil if there are no
// credentials.
func (l *Logins) ECR(ctx context.Context, host string) (*Login, error) {
	h := parseECR(host)
	if h == nil {
		return nil, nil
	}
	return l.remember(host, func() (*Login, error) {
		key, err := l.aws.Key(ctx)
		if err != nil || key == nil {
			return nil, err
		}
		login, err := l.aws.authorizationToken(ctx, h, *key)
		if err != nil {
			return nil, fmt.Errorf("get a login for %s with the %s: %w", host, key.From, err)
		}
		return login, nil
	})
}

// authorizationToken asks ECR for a login.
func (a *AWS) authorizationToken(ctx context.Context, h *ecrHost, key AWSKey) (*Login, error) {
	target, service, endpoint, body := "AmazonEC2ContainerRegistry_V20150921", "ecr", a.endpoint("ECR"), []byte("{}")
	if h.public {
		target, service, endpoint = "SpencerFrontendService", "ecr-public", a.endpoint("ECR_PUBLIC")
	} else if b, err := json.Marshal(map[string][]string{"registryIds": {h.account}}); err == nil {
		body = b
	}
	endpoint = strings.TrimSuffix(cmp.Or(endpoint, h.endpoint), "/") + "/"
	raw, _, err := a.s.ask(ctx, a.s.public, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(string(body))) //nolint:noctx // ask gives it one
		if err != nil {
			return nil, fmt.Errorf("the endpoint of ECR is not valid: %w", err)
		}
		req.Header.Set("Content-Type", "application/x-amz-json-1.1")
		req.Header.Set("X-Amz-Target", target+".GetAuthorizationToken")
		signAWS(req, key, service, h.region, a.s.Now(), hexSum(body))
		return req, nil
	})
	if err != nil {
		return nil, err
	}
	type data struct {
		AuthorizationToken string  `json:"authorizationToken"`
		ExpiresAt          float64 `json:"expiresAt"` // seconds since 1970
	}
	var d data
	if h.public {
		out := struct{ AuthorizationData *data }{&d}
		err = json.Unmarshal(raw, &out)
	} else {
		var out struct{ AuthorizationData []data }
		if err = json.Unmarshal(raw, &out); err == nil && len(out.AuthorizationData) > 0 {
			d = out.AuthorizationData[0]
		}
	}
	if err != nil {
		return nil, errors.New("the answer of ECR cannot be read")
	}
	text, err := base64.StdEncoding.DecodeString(d.AuthorizationToken)
	user, password, ok := strings.Cut(string(text), ":")
	if err != nil || !ok {
		return nil, errors.New("the answer of ECR holds no login")
	}
	return &Login{Username: user, Password: password, Expires: time.Unix(int64(d.ExpiresAt), 0), From: key.From}, nil
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// acrResource is what tokens for registries of Azure's are made out to.
const acrResource = "https://containerregistry.azure.net"

// ACR returns a login for one of Azure's registries, or nil if there are no
// credentials.
func (l *Logins) ACR(ctx context.Context, host string) (*Login, error) {
	if !IsACR(host) {
		return nil, nil
	}
	return l.remember(host, func() (*Login, error) {
		azure, err := l.azureFor(host)
		if err != nil {
			return nil, err
		}
		t, err := azure.Token(ctx)
		if err != nil || t == nil {
			return nil, err
		}
		login, err := azure.exchange(ctx, host, t)
		if err != nil {
			return nil, fmt.Errorf("get a login for %s with the %s: %w", host, t.From, err)
		}
		return login, nil
	})
}

// azureFor finds out which of Azure's clouds a registry belongs to: that of
// AZURE_ENVIRONMENT, or that of its domain.
func (l *Logins) azureFor(host string) (*Azure, error) {
	_, domain, _ := strings.Cut(host, ".")
	authority := acrAuthority(domain)
	env := ""
	if l.opt.Env != nil {
		env = l.opt.Env("AZURE_ENVIRONMENT")
	}
	switch strings.ToUpper(env) {
	case "":
	case "AZURECLOUD", "AZUREPUBLICCLOUD":
		authority = azurePublic
	case "AZURECHINACLOUD":
		authority = acrAuthority("azurecr.cn")
	case "AZUREUSGOVERNMENT", "AZUREUSGOVERNMENTCLOUD":
		authority = acrAuthority("azurecr.us")
	case "AZUREGERMANCLOUD":
		authority = "https://login.microsoftonline.de"
	default:
		return nil, fmt.Errorf("AZURE_ENVIRONMENT=%s: want AZUREPUBLICCLOUD, AZURECHINACLOUD, AZUREGERMANCLOUD or AZUREUSGOVERNMENT", env)
	}
	if l.azure[authority] == nil {
		l.azure[authority] = NewAzure(acrResource, authority, l.opt)
	}
	return l.azure[authority], nil
}

// exchange trades a token of Azure's for a refresh token of the registry.
func (a *Azure) exchange(ctx context.Context, host string, t *Token) (*Login, error) {
	form := url.Values{"grant_type": {"access_token"}, "service": {host}, "access_token": {t.Value}}
	if tenant := a.s.Env("AZURE_TENANT_ID"); tenant != "" {
		form.Set("tenant", tenant)
	}
	body, _, err := a.s.ask(ctx, a.s.public, postForm("https://"+host+"/oauth2/exchange", form))
	if err != nil {
		return nil, err
	}
	var out struct {
		RefreshToken string `json:"refresh_token"`
	}
	if json.Unmarshal(body, &out) != nil || out.RefreshToken == "" {
		return nil, errors.New("the answer of the registry holds no token")
	}
	return &Login{IdentityToken: out.RefreshToken, Expires: expiry(out.RefreshToken, t.Expires), From: t.From}, nil
}

// expiry is when a JWT says that it expires, or else other.
func expiry(jwt string, other time.Time) time.Time {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return other
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	var claims struct {
		Exp int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(raw, &claims) != nil || claims.Exp == 0 {
		return other
	}
	return time.Unix(claims.Exp, 0)
}
