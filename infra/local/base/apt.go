package base

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// arguments is mmdebstrap's command line: a minimal Debian as a tar on
// standard output, from the archives that this machine's apt uses.
func (im *Images) arguments(ctx context.Context, dir string) ([]string, error) {
	args := []string{"--variant=minbase", "--format=tar", "--quiet", "--architectures=" + debianArch(im.cfg.Arch), "--skip=output/dev"}
	options, err := aptOptions(ctx, im.cfg.Env)
	if err != nil {
		return nil, err
	}
	if options != "" {
		path := filepath.Join(dir, "apt.conf")
		if err := os.WriteFile(path, []byte(options), 0o644); err != nil { //nolint:gosec // read by apt's own user
			return nil, fmt.Errorf("make base image: %w", err)
		}
		args = append(args, "--aptopt="+path)
	}
	args = append(args, suite, "-")
	lines, err := readSources(im.cfg.AptDir)
	if err != nil {
		return nil, err
	}
	return append(args, lines...), nil // without any, mmdebstrap knows where Debian is
}

func debianArch(arch string) string {
	switch arch {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	case "ppc64le":
		return "ppc64el"
	}
	return arch
}

// aptOptions returns the machine's apt settings that decide whether an archive
// can be reached and believed, in apt.conf syntax.
func aptOptions(ctx context.Context, env []string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-config", "dump", "--no-empty", "--format", `%f "%v";%n`, "Acquire")
	cmd.Env = env
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", nil // not a Debian: mmdebstrap's defaults
	}
	if err != nil {
		return "", fmt.Errorf("ask apt for its settings: %w", err)
	}
	return chooseOptions(string(out)), nil
}

func chooseOptions(dump string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		name, _, _ := strings.Cut(line, " ")
		parts := strings.Split(strings.ToLower(name), "::")
		wanted := func(s string) bool {
			return strings.Contains(s, "proxy") || slices.Contains([]string{"check-valid-until", "check-date", "forceipv4", "forceipv6", "timeout", "cainfo"}, s)
		}
		if slices.ContainsFunc(parts, wanted) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// source is one archive line of apt's configuration.
type source struct {
	uri, suite string
	components []string
	signedBy   string // path of a keyring; "" is apt's default
}

// readSources returns the archives of Debian that apt on this machine uses, as
// one-line sources of our suite; none on a machine that is not a Debian.
func readSources(aptDir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(aptDir, "sources.list.d", "*"))
	if err != nil {
		return nil, fmt.Errorf("read apt's sources: %w", err)
	}
	var found []source
	for _, path := range append([]string{filepath.Join(aptDir, "sources.list")}, paths...) {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read apt's sources: %w", err)
		}
		switch filepath.Ext(path) {
		case ".list":
			found = append(found, parseList(string(data))...)
		case ".sources":
			found = append(found, parseDeb822(string(data))...)
		}
	}
	return ours(found), nil
}

// ours turns the sources of Debian itself into those of our suite.
func ours(found []source) []string {
	var lines []string
	for _, s := range found {
		release, pocket, _ := strings.Cut(s.suite, "-")
		known := slices.Contains([]string{"bookworm", "trixie", "forky", "bullseye", "buster", "stable", "oldstable", "testing", "sid", "unstable"}, release)
		if !known || !slices.Contains(s.components, "main") || pocket != "" && pocket != "updates" && pocket != "security" {
			continue
		}
		line := "deb "
		if strings.HasPrefix(s.signedBy, "/") {
			line += "[signed-by=" + s.signedBy + "] "
		}
		line += s.uri + " " + suite
		if pocket != "" {
			line += "-" + pocket
		}
		line += " main"
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// parseList reads one-line sources: deb [options] uri suite components…
func parseList(text string) []source {
	var found []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if options, after, ok := strings.Cut(rest, "]"); ok && strings.HasPrefix(rest, "[") {
			for _, o := range strings.Fields(options[1:]) {
				if key, ok := strings.CutPrefix(o, "signed-by="); ok {
					s.signedBy = key
				}
			}
			rest = after
		}
		if f := strings.Fields(rest); len(f) >= 3 {
			s.uri, s.suite, s.components = f[0], f[1], f[2:]
			found = append(found, s)
		}
	}
	return found
}

// parseDeb822 reads sources written as stanzas of fields.
func parseDeb822(text string) []source {
	var found []source
	for stanza := range strings.SplitSeq(strings.ReplaceAll(text, "\r", ""), "\n\n") {
		fields := map[string]string{}
		last := ""
		for line := range strings.Lines(stanza) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
				fields[last] += " " + strings.TrimSpace(line)
				continue
			}
			name, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(name))
			fields[last] = strings.TrimSpace(value)
		}
		if fields["enabled"] == "no" || !slices.Contains(strings.Fields(fields["types"]), "deb") {
			continue
		}
		for _, uri := range strings.Fields(fields["uris"]) {
			for _, suite := range strings.Fields(fields["suites"]) {
				found = append(found, source{uri: uri, suite: suite, components: strings.Fields(fields["components"]), signedBy: fields["signed-by"]})
			}
		}
	}
	return found
}
