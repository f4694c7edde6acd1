package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/build"
	"github.com/kilnhook/kiln/executor/internal/source"
)

// TestLogin proves which secret goes to which host.
func TestLogin(t *testing.T) {
	s := &session{c: &config{context: "git://context.example/repo.git"}, given: build.Mounts{Secrets: map[string][]byte{
		"HTTP_AUTH_TOKEN_a.example":          []byte("token\n"),
		"HTTP_AUTH_HEADER_a.example":         []byte("Basic lost"),
		"HTTP_AUTH_HEADER_b.example":         []byte("Basic header"),
		"GIT_AUTH_TOKEN.a.example:8443":      []byte("of a"),
		"GIT_AUTH_HEADER.b.example":          []byte("basic dXNlcjpwYXNzOndvcmQ="),
		"GIT_AUTH_TOKEN.b.example":           []byte("lost"),
		"GIT_AUTH_HEADER.c.example":          []byte("bearer hunter2"),
		"GIT_AUTH_HEADER.d.example":          []byte("basic hunter2!"),
		"GIT_AUTH_TOKEN":                     []byte("of all\r\n"),
		"GIT_AUTH_TOKEN.of.another.example.": []byte("lost"),
	}}}
	for raw, want := range map[string]string{
		"https://a.example:8443/f": "Bearer token", "https://b.example/f": "Basic header", "https://c.example/f": "",
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.downloadLogin(u); got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
	of := source.Options{GitToken: "context's", GitUsername: "context's", GitPassword: "context's"}
	for raw, want := range map[string]string{
		"https://a.example:8443/r.git": "x-access-token:of a", "https://b.example/r.git": "user:pass:word",
		"https://e.example/r.git": "x-access-token:of all", "https://context.example/r.git": "x-access-token:of all",
	} {
		got, err := s.withLogin(of, raw)
		if err != nil || got.GitToken != "" || got.GitUsername+":"+got.GitPassword != want {
			t.Errorf("%s: %q %q:%q, %v; want %q", raw, got.GitToken, got.GitUsername, got.GitPassword, err, want)
		}
	}
	for _, raw := range []string{"https://c.example/r.git", "https://d.example/r.git"} {
		if _, err := s.withLogin(of, raw); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "--secret id=GIT_AUTH_HEADER.") {
			t.Errorf("%s: %v", raw, err)
		}
	}
	delete(s.given.Secrets, "GIT_AUTH_TOKEN")
	if got, err := s.withLogin(of, "https://context.example/r.git"); err != nil || got.GitToken != "context's" {
		t.Errorf("the context's host: %+v, %v", got.GitToken, err)
	}
	if got, err := s.withLogin(of, "https://e.example/r.git"); err != nil || got.GitToken+got.GitUsername+got.GitPassword != "" {
		t.Errorf("another host: %q, %v", got.GitToken, err)
	}
}
