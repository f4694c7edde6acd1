package serving

import (
	"fmt"
	"os"
	"strings"

	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/gitlab"
)

// Secrets are those of the doors for changes. A forge without one is refused.
type Secrets struct {
	GitHub, Gitea [][]byte
	GitLab        gitlab.Secrets
	Bitbucket     bitbucket.Config
	Tokens        []string // of the doors that nobody signs for
}

// SecretFiles are files with secrets, one a line. A file that is not named is
// replaced by the variable of the environment that stands beside it.
type SecretFiles struct {
	GitHub    string // KILN_GITHUB_SECRET
	GitLab    string // KILN_GITLAB_SECRET: signing tokens (whsec_…) and secret tokens
	Gitea     string // KILN_GITEA_SECRET
	Bitbucket string // KILN_BITBUCKET_SECRET
	Tokens    string // KILN_TOKEN
	// BitbucketURL is the address of a Data Center whose webhooks do not say it.
	BitbucketURL string
}

// Read reads the files.
func (f SecretFiles) Read(getenv func(string) string) (Secrets, error) {
	s := Secrets{Bitbucket: bitbucket.Config{Server: f.BitbucketURL}}
	for _, forge := range []struct {
		file, variable string
		secrets        *[][]byte
	}{
		{f.GitHub, "KILN_GITHUB_SECRET", &s.GitHub},
		{f.Gitea, "KILN_GITEA_SECRET", &s.Gitea},
		{f.Bitbucket, "KILN_BITBUCKET_SECRET", &s.Bitbucket.Secrets},
	} {
		lines, err := SecretLines(getenv, forge.file, forge.variable)
		if err != nil {
			return s, err
		}
		for _, line := range lines {
			*forge.secrets = append(*forge.secrets, []byte(line))
		}
	}
	lines, err := SecretLines(getenv, f.GitLab, "KILN_GITLAB_SECRET")
	if err != nil {
		return s, err
	}
	if s.GitLab, err = gitlab.ParseSecrets(lines); err != nil {
		return s, fmt.Errorf("secrets of GitLab: %w", err)
	}
	s.Tokens, err = SecretLines(getenv, f.Tokens, "KILN_TOKEN")
	return s, err
}

// SecretLines reads the lines of a file, or of a variable if no file is given.
func SecretLines(getenv func(string) string, file, variable string) ([]string, error) {
	text := getenv(variable)
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read secret: %w", err)
		}
		text = string(data)
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if file != "" && len(lines) == 0 {
		return nil, fmt.Errorf("secret file %s is empty", file)
	}
	return lines, nil
}
