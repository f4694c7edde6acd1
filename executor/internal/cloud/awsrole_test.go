package cloud

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Roles, programs and the single sign-on of a profile give keys, and what is
// wrong with them is told with the profile's name.
func TestAWSProfiles(t *testing.T) {
	srv := serve(t, map[string]func(r *http.Request) string{
		"POST /sts/": func(r *http.Request) string {
			auth := r.Header.Get("Authorization")
			if r.FormValue("Action") != "AssumeRole" || r.FormValue("RoleArn") == "arn:denied" || !strings.Contains(auth, "/eu-west-1/sts/aws4_request") {
				return ""
			}
			who := "ASIA1"
			if strings.Contains(auth, "Credential=ASIA1/") && r.Header.Get("X-Amz-Security-Token") == "t" {
				who = "ASIA2" // by a role
			}
			if want := r.FormValue("ExternalId"); want != "" && want != "ext" {
				return ""
			}
			return fmt.Sprintf(`<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`, who)
		},
		"GET /sso/federation/credentials": func(r *http.Request) string {
			if r.Header.Get("X-Amz-Sso_bearer_token") != "sso-token" || r.FormValue("account_id") != "1" || r.FormValue("role_name") != "Dev" {
				return ""
			}
			return `{"roleCredentials":{"accessKeyId":"ASIASSO","secretAccessKey":"s","sessionToken":"t","expiration":4102444800000}}`
		},
	})
	config := `[profile base]
aws_access_key_id = AKIABASE
aws_secret_access_key = s
[profile role]
role_arn = arn:r
source_profile = base
external_id = ext
region = eu-west-1
[profile chain]
role_arn = arn:c
source_profile = role
region = eu-west-1
[profile self]
role_arn = arn:s
source_profile = self
aws_access_key_id = AKIASELF
aws_secret_access_key = s
region = eu-west-1
[profile loop]
role_arn = arn:l
source_profile = loop
[profile denied]
role_arn = arn:denied
source_profile = base
region = eu-west-1
[profile envrole]
role_arn = arn:e
credential_source = Environment
region = eu-west-1
[profile lost]
role_arn = arn:x
[profile mfa]
role_arn = arn:m
mfa_serial = x
source_profile = base
[profile process]
credential_process = printf '{"Version":1,"AccessKeyId":"AKIAPROC","SecretAccessKey":"s"}'
[profile failing]
credential_process = echo no vault >&2; exit 3
[profile future]
credential_process = printf '{"Version":2,"AccessKeyId":"AKIAPROC","SecretAccessKey":"s"}'
[profile sso]
sso_session = work
sso_account_id = 1
sso_role_name = Dev
[profile oldsso]
sso_start_url = https://old.example/start
sso_region = eu-west-1
sso_account_id = 1
sso_role_name = Dev
[profile later]
sso_session = never
sso_account_id = 1
sso_role_name = Dev
[sso-session work]
sso_region = eu-west-1
sso_start_url = https://new.example/start
[sso-session never]
sso_region = eu-west-1
`
	files := map[string]string{
		".aws/config": config,
		// The names are the SHA-1 of "work" and of the URL.
		".aws/sso/cache/" + sha1Hex("work") + ".json":                      `{"accessToken":"sso-token","expiresAt":"2099-01-01T00:00:00Z"}`,
		".aws/sso/cache/" + sha1Hex("https://old.example/start") + ".json": `{"accessToken":"sso-token","expiresAt":"2001-01-01T00:00:00Z"}`,
	}
	for profile, tc := range map[string]struct {
		id, from, fails string
	}{
		"role":    {id: "ASIA1", from: "role arn:r (profile role)"},
		"chain":   {id: "ASIA2", from: "role arn:c (profile chain)"},
		"self":    {id: "ASIA1", from: "role arn:s (profile self)"},
		"loop":    {fails: "AWS profile loop: its source_profile leads back to it"},
		"denied":  {fails: "AWS profile denied: assume role arn:denied with the access key AKIABASE of profile base: 127.0.0.1"},
		"envrole": {fails: "there is no key to assume role arn:e with at Environment"},
		"lost":    {fails: "AWS profile lost has a role_arn but neither source_profile"},
		"mfa":     {fails: "asks for a second factor"},
		"process": {id: "AKIAPROC", from: "credential_process of profile process"},
		"failing": {fails: "credential_process of AWS profile failing: exit status 3: no vault"},
		"future":  {fails: "its answer has version 2 and not 1"},
		"sso":     {id: "ASIASSO", from: "role Dev of the single sign-on (profile sso)"},
		"oldsso":  {fails: "the single sign-on ended at 2001-01-01T00:00:00Z: run aws sso login --profile oldsso"},
		"later":   {fails: "run aws sso login --profile later"},
	} {
		t.Run(profile, func(t *testing.T) {
			env := map[string]string{"AWS_PROFILE": profile, "AWS_ENDPOINT_URL_STS": srv.URL + "/sts", "AWS_ENDPOINT_URL_SSO": srv.URL + "/sso"}
			k, err := NewAWS(options(t, env, files)).Key(t.Context())
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) || strings.Contains(err.Error(), "sso-token") {
					t.Errorf("error = %v, want %q", err, tc.fails)
				}
				return
			}
			if err != nil || k == nil || k.ID != tc.id || k.From != tc.from || k.Secret != "s" {
				t.Errorf("key = %+v, %v", k, err)
			}
		})
	}
}
