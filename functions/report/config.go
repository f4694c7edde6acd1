package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
)

// Config says where to tell.
type Config struct {
	DetailsURL    string // of a build's page, with {id}; empty is none
	Forges        []Forge
	Notifications []Notification
}

// Wanted reports whether there is anybody to tell.
func (c Config) Wanted() bool { return len(c.Forges)+len(c.Notifications) > 0 }

// forge is the one that has a repository.
func (c Config) forge(location string) (Forge, bool) {
	host, _, _ := strings.Cut(location, "/")
	i := slices.IndexFunc(c.Forges, func(f Forge) bool { return f.Host == host })
	if i < 0 {
		return Forge{}, false
	}
	return c.Forges[i], true
}

func (c Config) detailsURL(buildID string) string {
	return strings.ReplaceAll(c.DetailsURL, "{id}", buildID)
}

// Names are the notifications that triggers may name.
func (c Config) Names() []string {
	var names []string
	for _, n := range c.Notifications {
		names = append(names, n.Name)
	}
	return names
}

// file is the form of the configuration in YAML. Secrets are in files of their
// own, or in variables of the environment.
type file struct {
	DetailsURL string `yaml:"detailsURL"`
	Forges     []struct {
		Host      string `yaml:"host"`
		Kind      string `yaml:"kind"`
		API       string `yaml:"api"`
		TokenFile string `yaml:"tokenFile"`
		TokenEnv  string `yaml:"tokenEnv"`
	} `yaml:"forges"`
	Notifications []struct {
		Name    string `yaml:"name"`
		URL     string `yaml:"url"`
		URLFile string `yaml:"urlFile"`
		URLEnv  string `yaml:"urlEnv"`
		Text    string `yaml:"text"`
		Body    string `yaml:"body"`
		When    struct {
			Outcomes []events.Outcome `yaml:"outcomes"`
			Triggers []string         `yaml:"triggers"`
			Changed  bool             `yaml:"changed"`
		} `yaml:"when"`
	} `yaml:"notifications"`
}

// Secrets reads what a configuration only names.
type Secrets struct {
	File func(path string) ([]byte, error)
	Env  func(name string) string
}

// get reads a secret from a file or a variable.
func (s Secrets) get(path, variable string) (string, error) {
	switch {
	case path != "" && variable != "":
		return "", errors.New("give a file or a variable, not both")
	case path != "":
		data, err := s.File(path)
		if err != nil {
			return "", err
		}
		if text := strings.TrimSpace(string(data)); text != "" {
			return text, nil
		}
		return "", fmt.Errorf("%s is empty", path)
	case variable != "":
		if text := strings.TrimSpace(s.Env(variable)); text != "" {
			return text, nil
		}
		return "", fmt.Errorf("variable %s is empty", variable)
	}
	return "", errors.New("name a file or a variable that has it")
}

// Parse reads a configuration. Unknown fields are errors, which name the line.
func Parse(name string, data []byte, secrets Secrets) (Config, error) {
	var f file
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	c := Config{DetailsURL: f.DetailsURL}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(name+": "+format, args...)) }
	if c.DetailsURL != "" && (!isURL(c.DetailsURL) || !strings.Contains(c.DetailsURL, "{id}")) {
		fail("detailsURL %q is not an address with {id} for the build", c.DetailsURL)
	}
	for i, in := range f.Forges {
		forge := Forge{Host: strings.ToLower(in.Host), Kind: in.Kind, API: strings.TrimSuffix(in.API, "/")}
		if err := c.addForge(forge, in.TokenFile, in.TokenEnv, secrets); err != nil {
			fail("forges[%d]: %w", i, err)
		}
	}
	for i, in := range f.Notifications {
		n := Notification{Name: in.Name, URL: in.URL, When: When(in.When)}
		if err := c.addNotification(n, in.URLFile, in.URLEnv, in.Text, in.Body, secrets); err != nil {
			fail("notifications[%d]: %w", i, err)
		}
	}
	return c, errors.Join(errs...)
}

func isURL(s string) bool {
	u, err := url.Parse(strings.ReplaceAll(s, "{id}", "id"))
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func (c *Config) addForge(f Forge, tokenFile, tokenEnv string, secrets Secrets) (err error) {
	kinds := []string{KindGitHub, KindGitLab, KindGitea, KindBitbucket, KindBitbucketDataCenter}
	if f.Host == "" || strings.Contains(f.Host, "/") {
		return fmt.Errorf("host %q is not one such as github.com", f.Host)
	}
	if _, taken := c.forge(f.Host + "/"); taken {
		return fmt.Errorf("host %s is there twice", f.Host)
	}
	if f.Kind == "" {
		f.Kind = map[string]string{"github.com": KindGitHub, "gitlab.com": KindGitLab, "bitbucket.org": KindBitbucket, "codeberg.org": KindGitea}[f.Host]
	}
	if !slices.Contains(kinds, f.Kind) {
		return fmt.Errorf("kind %q of %s is none of %s", f.Kind, f.Host, strings.Join(kinds, ", "))
	}
	if f.API == "" {
		f.API = defaultAPI(f.Kind, f.Host)
	}
	if !isURL(f.API) {
		return fmt.Errorf("api %q of %s is no address", f.API, f.Host)
	}
	if c.DetailsURL == "" && (f.Kind == KindBitbucket || f.Kind == KindBitbucketDataCenter) {
		return fmt.Errorf("%s wants an address with every status: set detailsURL", f.Host)
	}
	if f.Token, err = secrets.get(tokenFile, tokenEnv); err != nil {
		return fmt.Errorf("token of %s: %w", f.Host, err)
	}
	c.Forges = append(c.Forges, f)
	return nil
}

func (c *Config) addNotification(n Notification, urlFile, urlEnv, text, body string, secrets Secrets) (err error) {
	if n.Name == "" || slices.Contains(c.Names(), n.Name) || len(n.Name) > 63 ||
		strings.Trim(strings.ToLower(n.Name), "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || n.Name[0] == '.' {
		return fmt.Errorf("name %q is not one of letters, digits, '-', '_' and '.', or is there twice", n.Name)
	}
	if n.URL == "" {
		if n.URL, err = secrets.get(urlFile, urlEnv); err != nil {
			return fmt.Errorf("url of %s: %w", n.Name, err)
		}
	}
	if !isURL(n.URL) {
		return fmt.Errorf("url of %s is no address", n.Name)
	}
	for _, o := range n.When.Outcomes {
		if err := (events.Result{Outcome: o}).Validate(); err != nil {
			return fmt.Errorf("when.outcomes of %s: %w", n.Name, err)
		}
	}
	if text != "" && body != "" {
		return fmt.Errorf("%s has both text and body", n.Name)
	}
	n.text = body == ""
	if n.text && text == "" {
		text = defaultText
	}
	if n.body, err = compile(n.Name, text+body); err != nil {
		return fmt.Errorf("template of %s: %w", n.Name, err)
	}
	if _, err := n.render(example()); err != nil {
		return fmt.Errorf("template of %s: %w", n.Name, err)
	}
	c.Notifications = append(c.Notifications, n)
	return nil
}

// example is a message with which templates are tried.
func example() message {
	at := time.Unix(0, 0).UTC()
	req := events.Request{BuildID: strings.Repeat("0", 26), Trigger: "app", Tenant: "default", Image: "host/app", Change: events.Change{
		Kind: events.KindGit, Location: "host/app", Name: "refs/heads/main", After: strings.Repeat("1", 40),
	}}
	res := events.Result{
		Outcome: events.OutcomeFailed, Class: events.ClassBuild, Message: "a \"quoted\"\nmessage", StartedAt: at, FinishedAt: at,
	}
	return message{Finished: events.NewFinished(req, res, nil), Changed: true, URL: "https://host/builds/0", Short: "00000000"}
}

// Check reports what triggers ask for that the configuration does not have.
func (c Config) Check(set trigger.Set) error {
	var errs []error
	for _, t := range set.All() {
		for _, name := range t.Report.Notify {
			if !slices.Contains(c.Names(), name) {
				errs = append(errs, fmt.Errorf("trigger %s (line %d): report.notify names %s, and no notification of that name is configured; there are %q", t.Name, t.Line, name, c.Names()))
			}
		}
		if !t.Report.Status {
			continue
		}
		for _, s := range t.On {
			if s.Git == nil || strings.Contains(strings.SplitN(s.Git.Repo, "/", 2)[0], "*") {
				continue
			}
			if _, ok := c.forge(s.Git.Repo); !ok {
				errs = append(errs, fmt.Errorf("trigger %s (line %d): report.status needs the token of the forge that has %s, and none is configured", t.Name, t.Line, s.Git.Repo))
			}
		}
	}
	return errors.Join(errs...)
}
