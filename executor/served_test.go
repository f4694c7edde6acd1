package main

import (
	"net/http"
	"net/http/cgi"
	"os/exec"
	"path/filepath"
	"strings"
)

// served is what $FILES serves: the files in $WORK/served and, below /git/,
// the repositories in $WORK/git.
func served(work string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(filepath.Join(work, "served"))))
	if path, err := exec.Command("git", "--exec-path").Output(); err == nil {
		root := filepath.Join(work, "git")
		mux.Handle("/git/", &cgi.Handler{
			Root: "/git", Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
			Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"},
		})
	}
	return mux
}
