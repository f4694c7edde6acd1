package main

import (
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// served is what $FILES serves: the files in $WORK/served, the repositories in
// $WORK/git below /git/, and below /put/ what it is sent, which it writes to
// $WORK.
func served(work string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(filepath.Join(work, "served"))))
	mux.HandleFunc("PUT /put/{name}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if name := r.PathValue("name"); err != nil || name == "refused" {
			w.WriteHeader(http.StatusForbidden)
		} else if err := os.WriteFile(filepath.Join(work, name), append([]byte(r.Header.Get("Content-Type")+" "), body...), 0o644); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	if path, err := exec.Command("git", "--exec-path").Output(); err == nil {
		root := filepath.Join(work, "git")
		mux.Handle("/git/", &cgi.Handler{
			Root: "/git", Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
			Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1"},
		})
	}
	return mux
}
