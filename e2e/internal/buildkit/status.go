package buildkit

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// tailLines is how many lines of what BuildKit printed an error quotes.
const tailLines = 20

// status collects the lines of JSON that the client prints while it builds.
type status struct {
	partial  []byte
	warnings []string
	log      []string // what was printed by steps and by the client itself
}

// Write takes what the client prints.
func (s *status) Write(p []byte) (int, error) {
	s.partial = append(s.partial, p...)
	for {
		line, rest, ok := strings.Cut(string(s.partial), "\n")
		if !ok {
			return len(p), nil
		}
		s.line(line)
		s.partial = []byte(rest)
	}
}

// line takes one line: a solve status, or what is printed beside them.
func (s *status) line(line string) {
	var m struct {
		Logs     []struct{ Data []byte }
		Warnings []struct {
			Short      []byte
			SourceInfo *struct{ Filename string }
		}
	}
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &m) != nil {
		s.log = append(s.log, line)
		return
	}
	for _, l := range m.Logs {
		s.log = append(s.log, strings.TrimRight(string(l.Data), "\n"))
	}
	for _, w := range m.Warnings {
		text, where := string(w.Short), ""
		if w.SourceInfo != nil {
			where = w.SourceInfo.Filename
		}
		if found := regexp.MustCompile(`^(.*) \(line (\d+)\)$`).FindStringSubmatch(text); found != nil {
			text, where = found[1], where+":"+found[2]
		}
		if w := where + ": " + text; !slices.Contains(s.warnings, w) {
			s.warnings = append(s.warnings, w)
		}
	}
}

// failure describes a build that ended with err.
func (s *status) failure(ref string, err error) error {
	lines := append(s.log, string(s.partial))
	return fmt.Errorf("build %s with BuildKit: %w; its last words:\n%s", ref, err, strings.Join(lines[max(0, len(lines)-tailLines):], "\n"))
}
