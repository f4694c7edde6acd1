package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretFlag(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("of file"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"VAR": "of VAR", "name": "of name", "EMPTY": ""}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	for _, c := range []struct{ flag, id, want, err string }{
		{"id=a,src=" + file, "a", "of file", ""},
		{"type=file,id=a,source=" + file, "a", "of file", ""},
		{"id=a,env=VAR", "a", "of VAR", ""},
		{"id=a,env=EMPTY", "a", "", ""},
		{"id=a,type=env,src=VAR", "a", "of VAR", ""},
		{"id=VAR,type=env", "VAR", "of VAR", ""},
		{"id=name", "name", "of name", ""},
		{"id=" + file, file, "of file", ""},
		{`"id=a,b",env=VAR`, "a,b", "of VAR", ""},
		{"id=a,env=NONE", "", "", "the variable NONE is not set"},
		{"id=a,src=" + file + ".none", "", "", "no such file"},
		{"id=nowhere", "", "", "no such file"},
		{"id=a,src=" + file + ",env=VAR", "", "", "a file or a variable"},
		{"id=a,type=file,env=VAR", "", "", "type=file has no env"},
		{"id=a,type=vault", "", "", `unknown type "vault"`},
		{"id=a,color=red", "", "", `unknown key "color"`},
		{"src=" + file, "", "", "it has no id"},
		{"id", "", "", "want key=value"},
		{"id=", "", "", "want key=value"},
		{"", "", "", "want id=name"},
		{`id="`, "", "", "want id=name"},
	} {
		s, err := parseSecret(c.flag)
		var value []byte
		if err == nil {
			value, err = s.read(lookup)
		}
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %v, want %s", c.flag, err, c.err)
		case c.err == "" && (err != nil || s.id != c.id || string(value) != c.want):
			t.Errorf("%s: %q is %q, %v", c.flag, s.id, value, err)
		}
	}
	if err := os.WriteFile(file, make([]byte, maxSecret+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (secretFlag{id: "a", file: file}).read(lookup); err == nil {
		t.Error("a secret of any size is taken")
	}
}

func TestAgentFlag(t *testing.T) {
	dir := t.TempDir()
	sock := filepath.Join(dir, "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lookup := func(string) (string, bool) { return sock, true }
	unset := func(string) (string, bool) { return "", false }
	for _, c := range []struct {
		flag   string
		lookup func(string) (string, bool)
		id     string
		err    string
	}{
		{"default", lookup, "default", ""},
		{"git", lookup, "git", ""},
		{"git=" + sock, unset, "git", ""},
		{"default", unset, "", "SSH_AUTH_SOCK is not set"},
		{"git=", lookup, "", "want default or id"},
		{"", lookup, "", "want default or id"},
		{"git=" + dir, lookup, "", "not the socket"},
		{"git=" + dir + "/none", lookup, "", "no such file"},
	} {
		id, path, err := parseAgent(c.flag, c.lookup)
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %v, want %s", c.flag, err, c.err)
		case c.err == "" && (err != nil || id != c.id || path != sock):
			t.Errorf("%s: %q at %s, %v", c.flag, id, path, err)
		}
	}
}
