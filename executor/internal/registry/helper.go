package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	helperTimeout   = time.Minute
	maxHelperAnswer = 1 << 20 // bytes
)

// askHelper runs docker-credential-NAME for a server. It returns nil if the
// helper has no credentials for it.
func askHelper(ctx context.Context, helper, server string, env []string) (*authn.AuthConfig, error) {
	if strings.Trim(helper, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
		return nil, fmt.Errorf("%q is not the name of a credential helper", helper)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, helperTimeout, errors.New("the helper took more than a minute"))
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, "get")
	cmd.Env = env
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = time.Second
	var stdout, stderr limitedBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// Helpers print their errors to standard output, by convention.
		said := strings.TrimSpace(stdout.String() + " " + stderr.String())
		if strings.Contains(said, "credentials not found") {
			return nil, nil
		}
		if said != "" {
			return nil, fmt.Errorf("%w: %.200s", err, said)
		}
		return nil, err
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		return nil, errors.New("its answer is not valid JSON")
	}
	switch answer.Username {
	case "":
		if answer.Secret == "" {
			return nil, nil
		}
		return nil, errors.New("its answer has no user name")
	case "<token>":
		return &authn.AuthConfig{IdentityToken: answer.Secret}, nil
	}
	return &authn.AuthConfig{Username: answer.Username, Password: answer.Secret}, nil
}

// limitedBuffer keeps the first maxHelperAnswer bytes.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := maxHelperAnswer - b.Len(); room > 0 {
		_, _ = b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
