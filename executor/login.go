package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"

	"github.com/kilnhook/kiln/executor/internal/source"
)

// Secrets with these names log in to the server of an ADD, as with BuildKit: of
// a host, or, for Git alone, of every host.
const (
	httpHeaderSecret = "HTTP_AUTH_HEADER_" // and the host without its port: the whole Authorization header
	httpTokenSecret  = "HTTP_AUTH_TOKEN_"  // and the host without its port: a bearer token
	gitHeaderSecret  = "GIT_AUTH_HEADER"   // "." and the host, or neither: "basic" and user:password in base64
	gitTokenSecret   = "GIT_AUTH_TOKEN"    // "." and the host, or neither: a token
)

// secret returns a secret without the end of line that files have.
func (s *session) secret(name string) (string, bool) {
	value, ok := s.given.Secrets[name]
	return string(bytes.TrimRight(value, "\r\n")), ok
}

// downloadLogin is the Authorization header of a download; "" is none.
func (s *session) downloadLogin(u *url.URL) string {
	if token, ok := s.secret(httpTokenSecret + u.Hostname()); ok {
		return "Bearer " + token
	}
	header, _ := s.secret(httpHeaderSecret + u.Hostname())
	return header
}

// withLogin puts what logs in to a repository's host into opt. A secret that is
// meant for repositories goes before the credentials of the context, which are
// only for the context's own host.
func (s *session) withLogin(opt source.Options, rawURL string) (source.Options, error) {
	host := source.Host(rawURL)
	if host == "" || host != source.Host(s.c.context) {
		opt.GitToken, opt.GitUsername, opt.GitPassword = "", "", ""
	}
	if host == "" {
		return opt, nil // over ssh an agent logs in
	}
	for _, suffix := range []string{"." + host, ""} {
		if header, ok := s.secret(gitHeaderSecret + suffix); ok {
			user, password, err := basicLogin(header)
			if err != nil {
				return opt, fmt.Errorf("--secret id=%s%s: %w", gitHeaderSecret, suffix, err)
			}
			opt.GitToken, opt.GitUsername, opt.GitPassword = "", user, password
			return opt, nil
		}
		if token, ok := s.secret(gitTokenSecret + suffix); ok {
			opt.GitToken, opt.GitUsername, opt.GitPassword = "", "x-access-token", token
			return opt, nil
		}
	}
	return opt, nil
}

// basicLogin reads the value of a basic Authorization header. No part of it is
// in the error.
func basicLogin(header string) (user, password string, err error) {
	kind, value, _ := strings.Cut(header, " ")
	if !strings.EqualFold(kind, "basic") {
		return "", "", fmt.Errorf("want basic and user:password in base64, or a token in %s", gitTokenSecret)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return "", "", fmt.Errorf("want basic and user:password in base64, or a token in %s", gitTokenSecret)
	}
	user, password, _ = strings.Cut(string(raw), ":")
	return user, password, nil
}
