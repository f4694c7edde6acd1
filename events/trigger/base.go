package trigger

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Base listens to images that a trigger's builds stand on.
type Base struct {
	// Images are patterns of "host/repository:tag"; empty is every base that
	// the trigger's last builds resolved.
	Images []string
	// Every is the time between two rebuilds for new bases; 0 is no limit.
	// Those that come sooner wait.
	Every time.Duration
}

// String is the patterns, for people.
func (b *Base) String() string {
	if len(b.Images) == 0 {
		return "auto"
	}
	return strings.Join(b.Images, ", ")
}

func (b *Base) matches(image string) bool { return len(b.Images) == 0 || anyGlob(b.Images, image) }

// BaseOf returns the source of a trigger that listens to an image
// ("host/repository:tag"); nil if there is none.
func (t Trigger) BaseOf(image string) *Base {
	for _, s := range t.On {
		if s.Base != nil && s.Base.matches(image) {
			return s.Base
		}
	}
	return nil
}

func (p *parser) base(n *yaml.Node) *Base {
	var b Base
	p.fields(n, "on.base", []field{
		{"images", func(n *yaml.Node) {
			b.Images = p.texts(n, "on.base.images")
			if len(b.Images) == 1 && b.Images[0] == "auto" {
				b.Images = nil
				return
			}
			for i, s := range b.Images {
				image, err := ImageName(strings.TrimPrefix(s, "!"))
				if err != nil {
					p.fail(n, "on.base.images: %v", err)
				}
				if strings.HasPrefix(s, "!") {
					image = "!" + image
				}
				b.Images[i] = image
			}
		}},
		{"rate", func(n *yaml.Node) {
			text := p.text(n, "on.base.rate")
			every, err := parseRate(text)
			if err != nil {
				p.fail(n, "on.base.rate: %v", err)
			}
			b.Every = every
		}},
	})
	return &b
}

// parseRate reads "10/h" as the time from one to the next.
func parseRate(s string) (time.Duration, error) {
	count, per, _ := strings.Cut(s, "/")
	n, err := strconv.Atoi(count)
	unit := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[per]
	if err != nil || n < 1 || unit == 0 || unit/time.Duration(n) < time.Millisecond {
		return 0, fmt.Errorf("%q is not a rate such as 10/h; there are s, m, h and d", s)
	}
	return unit / time.Duration(n), nil
}

// ImageName writes the name of an image, with a tag or without, in full:
// "golang" is "docker.io/library/golang:latest". A digest is left out. Stars
// of a pattern stay.
func ImageName(s string) (string, error) {
	s, _, _ = strings.Cut(s, "@")
	tag := "latest"
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		s, tag = s[:i], s[i+1:]
	}
	host, rest, hasHost := strings.Cut(s, "/")
	if !hasHost || !isHost(host) && !strings.Contains(host, "*") {
		host, rest = "docker.io", s
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	if host == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	for part := range strings.SplitSeq(rest, "/") {
		if !strings.Contains(part, "*") && !isComponent(part) {
			return "", fmt.Errorf("%q is not the name of an image", s)
		}
	}
	if tag == "" || Tag(strings.ReplaceAll(tag, "*", "x")) != strings.ReplaceAll(tag, "*", "x") {
		return "", fmt.Errorf("%q is not a tag", tag)
	}
	return host + "/" + rest + ":" + tag, nil
}
