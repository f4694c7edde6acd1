package cloud

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// profile is a section of the files that AWS's tools share.
type profile struct {
	name   string
	found  bool
	values map[string]string
}

// profileName is the profile that the environment asks for; "" if it asks for
// none, which means default.
func (a *AWS) profileName() string {
	return cmp.Or(a.s.Env("AWS_PROFILE"), a.s.Env("AWS_DEFAULT_PROFILE"))
}

// profile reads a profile, "" for the default one, from both files. The
// credentials file wins. A profile that is named must be there.
func (a *AWS) profile(named string) (profile, error) {
	p := profile{name: cmp.Or(named, "default"), values: map[string]string{}}
	section := "profile " + p.name
	if p.name == "default" {
		section = "default"
	}
	config, credentials := a.sharedFiles()
	for _, f := range []struct{ path, section string }{{config, section}, {credentials, p.name}} {
		values, ok, err := iniSection(f.path, f.section)
		if err != nil {
			return p, err
		}
		if ok {
			p.found = true
			maps.Copy(p.values, values)
		}
	}
	if named != "" && !p.found {
		return p, fmt.Errorf("AWS profile %q (AWS_PROFILE, or a source_profile) is neither in the config nor in the credentials file", named)
	}
	return p, nil
}

// sharedFiles are the paths of the files that AWS's tools share.
func (a *AWS) sharedFiles() (config, credentials string) {
	dir := filepath.Join(a.s.Env("HOME"), ".aws")
	return cmp.Or(a.s.Env("AWS_CONFIG_FILE"), filepath.Join(dir, "config")),
		cmp.Or(a.s.Env("AWS_SHARED_CREDENTIALS_FILE"), filepath.Join(dir, "credentials"))
}

// iniSection reads one section of a file, which need not be there.
func iniSection(path, section string) (map[string]string, bool, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read AWS profile: %w", err)
	}
	values, ok := iniSections(raw)[section]
	return values, ok, nil
}

// iniSections reads "[section]" and "key = value" lines. Lines that are
// indented belong to a nested value, of which we need none.
func iniSections(raw []byte) map[string]map[string]string {
	out := map[string]map[string]string{}
	var current map[string]string
	sc := bufio.NewScanner(bytes.NewReader(raw))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		text := sc.Text()
		line := strings.TrimSpace(text)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			name, _, _ := strings.Cut(line[1:], "]")
			name = strings.Join(strings.Fields(name), " ")
			if out[name] == nil {
				out[name] = map[string]string{}
			}
			current = out[name]
		case current != nil && text[0] != ' ' && text[0] != '\t':
			k, v, _ := strings.Cut(line, "=")
			v = strings.TrimSpace(v)
			for _, comment := range []string{" #", " ;", "\t#", "\t;"} {
				v, _, _ = strings.Cut(v, comment)
			}
			current[strings.ToLower(strings.TrimSpace(k))] = strings.TrimSpace(v)
		}
	}
	return out
}
