package cloud

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// AWSKey is an access key.
type AWSKey struct {
	ID, Secret string
	Session    string    // "" for a key that is not temporary
	Expires    time.Time // zero: never
	// From says where it comes from, for people.
	From string
}

// AWS finds access keys by the rules of AWS's default chain. It is safe for
// concurrent use.
type AWS struct {
	s *service

	mu  sync.Mutex
	key *AWSKey
}

// NewAWS returns a source of access keys.
func NewAWS(opt Options) *AWS { return &AWS{s: newService(opt)} }

// Region is what AWS_REGION, AWS_DEFAULT_REGION or the profile says, or "".
func (a *AWS) Region() (string, error) {
	if r := cmp.Or(a.s.Env("AWS_REGION"), a.s.Env("AWS_DEFAULT_REGION")); r != "" {
		return r, nil
	}
	p, err := a.profile(a.profileName())
	return p.values["region"], err
}

// Key returns a key that is good for a minute at least, or nil if none is to
// be found: the environment, the profile in the shared files, a web identity
// (IRSA), the container's credentials (ECS, EKS), the instance's. Credentials
// that are there and do not work are an error.
func (a *AWS) Key(ctx context.Context) (*AWSKey, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k := a.key; k != nil && (k.Expires.IsZero() || k.Expires.Sub(a.s.Now()) > time.Minute) {
		return k, nil
	}
	for _, find := range []func(context.Context) (*AWSKey, error){a.fromEnv, a.fromProfile, a.fromWebIdentity, a.fromContainer, a.fromInstance} {
		k, err := find(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, err
		}
		if k != nil {
			a.key = k
			return k, nil
		}
	}
	return nil, nil
}

func (a *AWS) fromEnv(context.Context) (*AWSKey, error) {
	id := cmp.Or(a.s.Env("AWS_ACCESS_KEY_ID"), a.s.Env("AWS_ACCESS_KEY"))
	secret := cmp.Or(a.s.Env("AWS_SECRET_ACCESS_KEY"), a.s.Env("AWS_SECRET_KEY"))
	if id == "" || secret == "" {
		return nil, nil
	}
	return &AWSKey{ID: id, Secret: secret, Session: a.s.Env("AWS_SESSION_TOKEN"), From: "access key " + id + " of the environment"}, nil
}

func (a *AWS) fromWebIdentity(ctx context.Context) (*AWSKey, error) {
	file, role := a.s.Env("AWS_WEB_IDENTITY_TOKEN_FILE"), a.s.Env("AWS_ROLE_ARN")
	if file == "" {
		return nil, nil
	}
	if role == "" {
		return nil, errors.New("AWS_WEB_IDENTITY_TOKEN_FILE is set but AWS_ROLE_ARN is not")
	}
	return a.assumeWithWebIdentity(ctx, role, a.s.Env("AWS_ROLE_SESSION_NAME"), file)
}

// AWSDomain is the domain of a region's endpoints.
func AWSDomain(region string) string {
	if strings.HasPrefix(region, "cn-") {
		return "amazonaws.com.cn"
	}
	return "amazonaws.com"
}

// keyAnswer is how ECS, EKS and the instance's metadata service tell a key.
type keyAnswer struct {
	AccessKeyId, SecretAccessKey, Token string // as AWS spells it
	Expiration                          time.Time
}

func (k keyAnswer) key(from string) (*AWSKey, error) {
	if k.AccessKeyId == "" || k.SecretAccessKey == "" {
		return nil, fmt.Errorf("%s: the answer holds no key", from)
	}
	return &AWSKey{ID: k.AccessKeyId, Secret: k.SecretAccessKey, Session: k.Token, Expires: k.Expiration, From: from}, nil
}

func (a *AWS) fromContainer(ctx context.Context) (*AWSKey, error) {
	uri := a.s.Env("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	if rel := a.s.Env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); rel != "" {
		uri = "http://169.254.170.2/" + strings.TrimPrefix(rel, "/")
	}
	if uri == "" {
		return nil, nil
	}
	token := a.s.Env("AWS_CONTAINER_AUTHORIZATION_TOKEN")
	if file := a.s.Env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: %w", err)
		}
		token = strings.TrimSpace(string(raw))
	}
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", token)
	}
	const from = "the role of this container"
	body, err := a.local(ctx, http.MethodGet, uri, header)
	if err != nil {
		return nil, fmt.Errorf("get the credentials of this container: %w", err)
	}
	var k keyAnswer
	if err := json.Unmarshal(body, &k); err != nil {
		return nil, fmt.Errorf("get the credentials of this container: %w", err)
	}
	return k.key(from)
}

// fromInstance asks the instance's metadata service, version 2.
func (a *AWS) fromInstance(ctx context.Context) (*AWSKey, error) {
	if strings.EqualFold(a.s.Env("AWS_EC2_METADATA_DISABLED"), "true") {
		return nil, nil
	}
	base := strings.TrimSuffix(cmp.Or(a.s.Env("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "http://169.254.169.254"), "/") + "/latest/"
	token, err := a.local(ctx, http.MethodPut, base+"api/token", http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"21600"}})
	if err != nil {
		if absent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("ask the instance metadata service: %w", err)
	}
	header := http.Header{"X-Aws-Ec2-Metadata-Token": {string(token)}}
	const path = "meta-data/iam/security-credentials/"
	role, err := a.local(ctx, http.MethodGet, base+path, header)
	if err != nil {
		if absent(err) {
			return nil, nil // no role is attached
		}
		return nil, fmt.Errorf("ask the instance metadata service: %w", err)
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(role)), "\n")
	body, err := a.local(ctx, http.MethodGet, base+path+name, header)
	if err != nil {
		return nil, fmt.Errorf("get the key of instance role %s: %w", name, err)
	}
	var k keyAnswer
	if err := json.Unmarshal(body, &k); err != nil {
		return nil, fmt.Errorf("get the key of instance role %s: %w", name, err)
	}
	return k.key("instance role " + name)
}

func (a *AWS) local(ctx context.Context, method, uri string, header http.Header) ([]byte, error) {
	body, _, err := a.s.ask(ctx, a.s.local, func() (*http.Request, error) {
		req, err := http.NewRequest(method, uri, http.NoBody) //nolint:noctx // ask gives it one
		if err != nil {
			return nil, fmt.Errorf("the credentials' URL is not valid: %w", err)
		}
		req.Header = header.Clone()
		return req, nil
	})
	return body, err
}
