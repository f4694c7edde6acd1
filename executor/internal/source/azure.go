package source

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kilnhook/kiln/executor/internal/cloud"
)

// azureAuthority is where the users of the Azure cloud log in whose blob
// storage u names; "" if it names none.
func azureAuthority(u *url.URL) string {
	host := strings.ToLower(u.Hostname())
	for suffix, authority := range map[string]string{
		".blob.core.windows.net":       "https://login.microsoftonline.com",
		".blob.core.chinacloudapi.cn":  "https://login.partner.microsoftonline.cn",
		".blob.core.cloudapi.de":       "https://login.microsoftonline.de",
		".blob.core.usgovcloudapi.net": "https://login.microsoftonline.us",
	} {
		if strings.HasSuffix(host, suffix) {
			return authority
		}
	}
	return ""
}

// fetchAzure fetches an archive from Azure's blob storage, whose account is the
// first label of the host.
func fetchAzure(ctx context.Context, u *url.URL, authority string, opt *Options) (*Context, error) {
	account, _, _ := strings.Cut(u.Hostname(), ".")
	return azureBlob(ctx, u, account, authority, opt)
}

func azureBlob(ctx context.Context, u *url.URL, account, authority string, opt *Options) (*Context, error) {
	// Signed is what is sent: escaped one way only.
	u.RawPath = cloud.EscapeAWS(u.Path, false)
	s := &azure{account: account, name: u.Path, key: opt.Env("AZURE_STORAGE_ACCESS_KEY"), now: opt.Now}
	if s.key == "" {
		s.tokens = cloud.NewAzure("https://storage.azure.com", authority, cloudOptions(opt))
	}
	return fromStore(ctx, u, s, opt)
}

// azure is Azure's blob storage.
type azure struct {
	account, name string
	key           string // "": by token
	tokens        *cloud.Azure
	used          *cloud.Token // nil: none
	now           func() time.Time
}

func (a *azure) sign(ctx context.Context, req *http.Request) error {
	req.Header.Set("X-Ms-Version", "2021-12-02")
	if a.key != "" {
		return cloud.SignAzure(req, a.account, a.key, a.now())
	}
	var err error
	if a.used, err = a.tokens.Token(ctx); err != nil {
		return err
	}
	if a.used != nil {
		req.Header.Set("X-Ms-Date", a.now().UTC().Format(http.TimeFormat))
		req.Header.Set("Authorization", "Bearer "+a.used.Value)
	}
	return nil
}

func (*azure) pin(resp *http.Response, u *url.URL) (string, http.Header) {
	etag := resp.Header.Get("ETag")
	if etag == "" {
		return "", nil
	}
	same := http.Header{"If-Match": {etag}}
	if id := resp.Header.Get("X-Ms-Version-Id"); id != "" {
		q := u.Query()
		q.Set("versionid", id)
		u.RawQuery = q.Encode()
		return "version:" + id, same
	}
	return "etag:" + strings.Trim(etag, `"`), same
}

func (*azure) elsewhere(*http.Response, *url.URL) bool { return false }

func (a *azure) explain(status int) string {
	who, check := "asked with AZURE_STORAGE_ACCESS_KEY for account "+a.account, "check that the key is one of the account's"
	if a.used != nil {
		who = "asked as " + a.used.From
		check = "check that it has the role Storage Blob Data Reader on the account"
	} else if a.key == "" {
		who = "AZURE_STORAGE_ACCESS_KEY environment variable is not set and no Azure identity was found"
		check = "set it, use a URL with a shared access signature, or give the machine or pod an identity"
	}
	if status == http.StatusNotFound {
		check += ", and that " + a.name + " exists"
	}
	return who + ": " + check
}
