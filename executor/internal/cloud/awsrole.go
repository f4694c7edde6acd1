package cloud

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // the names of AWS's cache files are made with it
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// fromProfile uses the profile that the environment asks for, or default.
func (a *AWS) fromProfile(ctx context.Context) (*AWSKey, error) {
	p, err := a.profile(a.profileName())
	if err != nil || !p.found {
		return nil, err
	}
	return a.profileKey(ctx, p, nil)
}

// profileKey gets a key as a profile says. before are the profiles that lead
// to this one by their source_profile.
func (a *AWS) profileKey(ctx context.Context, p profile, before []string) (*AWSKey, error) {
	v := p.values
	switch {
	case v["role_arn"] != "" && v["web_identity_token_file"] != "":
		return a.assumeWithWebIdentity(ctx, v["role_arn"], v["role_session_name"], v["web_identity_token_file"])
	case v["role_arn"] != "" && !slices.Contains(before, p.name):
		return a.assumeOf(ctx, p, before)
	case v["aws_access_key_id"] != "" && v["aws_secret_access_key"] != "":
		id := v["aws_access_key_id"]
		return &AWSKey{ID: id, Secret: v["aws_secret_access_key"], Session: v["aws_session_token"], From: "access key " + id + " of profile " + p.name}, nil
	case v["role_arn"] != "":
		return nil, fmt.Errorf("AWS profile %s: its source_profile leads back to it, and it has no access key", p.name)
	case v["sso_session"] != "" || v["sso_start_url"] != "":
		return a.fromSSO(ctx, p)
	case v["credential_process"] != "":
		return a.fromProcess(ctx, p)
	}
	return nil, nil
}

// assumeOf assumes the role of a profile with the key of its source.
func (a *AWS) assumeOf(ctx context.Context, p profile, before []string) (*AWSKey, error) {
	v := p.values
	if v["mfa_serial"] != "" {
		return nil, fmt.Errorf("AWS profile %s asks for a second factor (mfa_serial), which nobody can enter here: put a key into the environment (aws configure export-credentials --format env)", p.name)
	}
	var by *AWSKey
	var err error
	switch source := v["credential_source"]; {
	case v["source_profile"] != "":
		var from profile
		if from, err = a.profile(v["source_profile"]); err == nil {
			by, err = a.profileKey(ctx, from, append(before, p.name))
		}
	case source == "Environment":
		by, err = a.fromEnv(ctx)
	case source == "Ec2InstanceMetadata":
		by, err = a.fromInstance(ctx)
	case source == "EcsContainer":
		by, err = a.fromContainer(ctx)
	default:
		return nil, fmt.Errorf("AWS profile %s has a role_arn but neither source_profile nor a credential_source that is known (Environment, Ec2InstanceMetadata, EcsContainer)", p.name)
	}
	if err != nil {
		return nil, fmt.Errorf("AWS profile %s: %w", p.name, err)
	}
	if by == nil {
		return nil, fmt.Errorf("AWS profile %s: there is no key to assume role %s with at %s", p.name, v["role_arn"], cmp.Or(v["source_profile"], v["credential_source"]))
	}
	form := url.Values{"Action": {"AssumeRole"}, "RoleArn": {v["role_arn"]}, "RoleSessionName": {cmp.Or(v["role_session_name"], "kiln")}}
	if v["external_id"] != "" {
		form.Set("ExternalId", v["external_id"])
	}
	if v["duration_seconds"] != "" {
		form.Set("DurationSeconds", v["duration_seconds"])
	}
	k, err := a.sts(ctx, form, v["region"], by)
	if err != nil {
		return nil, fmt.Errorf("AWS profile %s: assume role %s with the %s: %w", p.name, v["role_arn"], by.From, err)
	}
	k.From = "role " + v["role_arn"] + " (profile " + p.name + ")"
	return k, nil
}

// assumeWithWebIdentity trades a web identity for a key of a role, at STS.
func (a *AWS) assumeWithWebIdentity(ctx context.Context, role, session, file string) (*AWSKey, error) {
	token, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read web identity token: %w", err)
	}
	form := url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "RoleArn": {role},
		"RoleSessionName": {cmp.Or(session, "kiln")}, "WebIdentityToken": {strings.TrimSpace(string(token))},
	}
	k, err := a.sts(ctx, form, "", nil)
	if err != nil {
		return nil, fmt.Errorf("assume role %s with the web identity in %s: %w", role, file, err)
	}
	k.From = "role " + role + " (web identity)"
	return k, nil
}

// sts asks the security token service of a region, "" for that of the
// environment, for a key. by signs the request; nil: nobody does.
func (a *AWS) sts(ctx context.Context, form url.Values, region string, by *AWSKey) (*AWSKey, error) {
	own, err := a.Region()
	if err != nil {
		return nil, err
	}
	region = cmp.Or(own, region)
	endpoint := "https://sts.amazonaws.com"
	if region != "" {
		endpoint = "https://sts." + region + "." + AWSDomain(region)
	}
	endpoint = strings.TrimSuffix(cmp.Or(a.endpoint("STS"), endpoint), "/") + "/"
	form.Set("Version", "2011-06-15")
	body, _, err := a.s.ask(ctx, a.s.public, func() (*http.Request, error) {
		req, err := postForm(endpoint, form)()
		if err == nil && by != nil {
			signAWS(req, *by, "sts", cmp.Or(region, "us-east-1"), a.s.Now(), hexSum([]byte(form.Encode())))
		}
		return req, err
	})
	if err != nil {
		return nil, err
	}
	type credentials struct {
		AccessKeyId, SecretAccessKey, SessionToken string // as STS spells it
		Expiration                                 time.Time
	}
	var out struct {
		Role credentials `xml:"AssumeRoleResult>Credentials"`
		Web  credentials `xml:"AssumeRoleWithWebIdentityResult>Credentials"`
	}
	if err := xml.Unmarshal(body, &out); err != nil {
		return nil, errors.New("the answer of STS cannot be read")
	}
	c := out.Role
	if c.AccessKeyId == "" {
		c = out.Web
	}
	if c.AccessKeyId == "" || c.SecretAccessKey == "" {
		return nil, errors.New("the answer of STS holds no key")
	}
	return &AWSKey{ID: c.AccessKeyId, Secret: c.SecretAccessKey, Session: c.SessionToken, Expires: c.Expiration}, nil
}

// endpoint is where the environment says that a service is, as all of AWS's
// tools understand it; "" if it says nothing.
func (a *AWS) endpoint(service string) string {
	if strings.EqualFold(a.s.Env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"), "true") {
		return ""
	}
	return cmp.Or(a.s.Env("AWS_ENDPOINT_URL_"+service), a.s.Env("AWS_ENDPOINT_URL"))
}

const processTimeout = time.Minute

// fromProcess runs the program of a profile that prints a key.
func (a *AWS) fromProcess(ctx context.Context, p profile) (*AWSKey, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, processTimeout, errors.New("it took more than a minute"))
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", p.values["credential_process"])
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("credential_process of AWS profile %s: %w: %.200s", p.name, err, strings.TrimSpace(stderr.String()))
	}
	var k struct {
		Version                                    int
		AccessKeyId, SecretAccessKey, SessionToken string // as AWS spells it
		Expiration                                 time.Time
	}
	if err := json.Unmarshal(out, &k); err != nil || k.AccessKeyId == "" || k.SecretAccessKey == "" {
		return nil, fmt.Errorf("credential_process of AWS profile %s: it printed no key", p.name)
	}
	if k.Version != 1 {
		return nil, fmt.Errorf("credential_process of AWS profile %s: its answer has version %d and not 1", p.name, k.Version)
	}
	return &AWSKey{ID: k.AccessKeyId, Secret: k.SecretAccessKey, Session: k.SessionToken, Expires: k.Expiration, From: "credential_process of profile " + p.name}, nil
}

// fromSSO trades the token that "aws sso login" has left for a key.
func (a *AWS) fromSSO(ctx context.Context, p profile) (*AWSKey, error) {
	v := p.values
	cacheName, region := v["sso_start_url"], v["sso_region"]
	if session := v["sso_session"]; session != "" {
		config, _ := a.sharedFiles()
		values, ok, err := iniSection(config, "sso-session "+session)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("AWS profile %s: there is no [sso-session %s] in %s", p.name, session, config)
		}
		cacheName, region = session, values["sso_region"]
	}
	again := "run aws sso login --profile " + p.name
	sum := sha1.Sum([]byte(cacheName)) //nolint:gosec // names a file
	raw, err := os.ReadFile(filepath.Join(a.s.Env("HOME"), ".aws", "sso", "cache", hex.EncodeToString(sum[:])+".json"))
	if err != nil {
		return nil, fmt.Errorf("AWS profile %s: read the token of the single sign-on (%s): %w", p.name, again, err)
	}
	var token struct {
		AccessToken string    `json:"accessToken"`
		ExpiresAt   time.Time `json:"expiresAt"`
	}
	if json.Unmarshal(raw, &token) != nil || token.AccessToken == "" {
		return nil, fmt.Errorf("AWS profile %s: the cached token of the single sign-on cannot be read: %s", p.name, again)
	}
	if !token.ExpiresAt.After(a.s.Now()) {
		return nil, fmt.Errorf("AWS profile %s: the single sign-on ended at %s: %s", p.name, token.ExpiresAt.Format(time.RFC3339), again)
	}
	if v["sso_account_id"] == "" || v["sso_role_name"] == "" || region == "" {
		return nil, fmt.Errorf("AWS profile %s: sso_account_id, sso_role_name and sso_region are needed", p.name)
	}
	base := strings.TrimSuffix(cmp.Or(a.endpoint("SSO"), "https://portal.sso."+region+"."+AWSDomain(region)), "/")
	query := url.Values{"account_id": {v["sso_account_id"]}, "role_name": {v["sso_role_name"]}}
	body, _, err := a.s.ask(ctx, a.s.public, func() (*http.Request, error) {
		req, err := http.NewRequest(http.MethodGet, base+"/federation/credentials?"+query.Encode(), http.NoBody) //nolint:noctx // ask gives it one
		if err != nil {
			return nil, fmt.Errorf("the URL of the single sign-on is not valid: %w", err)
		}
		req.Header.Set("X-Amz-Sso_bearer_token", token.AccessToken)
		return req, nil
	})
	if err != nil {
		return nil, fmt.Errorf("AWS profile %s: get a key from the single sign-on: %w", p.name, err)
	}
	var out struct {
		RoleCredentials struct {
			AccessKeyID     string `json:"accessKeyId"`
			SecretAccessKey string `json:"secretAccessKey"`
			SessionToken    string `json:"sessionToken"`
			Expiration      int64  `json:"expiration"` // milliseconds since 1970
		} `json:"roleCredentials"`
	}
	if err := json.Unmarshal(body, &out); err != nil || out.RoleCredentials.AccessKeyID == "" {
		return nil, fmt.Errorf("AWS profile %s: the answer of the single sign-on holds no key", p.name)
	}
	c := out.RoleCredentials
	return &AWSKey{ID: c.AccessKeyID, Secret: c.SecretAccessKey, Session: c.SessionToken, Expires: time.UnixMilli(c.Expiration), From: "role " + v["sso_role_name"] + " of the single sign-on (profile " + p.name + ")"}, nil
}
