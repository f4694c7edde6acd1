package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// counted writes down the requests for blobs and manifests that it passes on.
type counted struct {
	next http.Handler
	mu   sync.Mutex
	file string
}

func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	f, err := os.OpenFile(c.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		fmt.Fprintln(f, r.Method, r.URL.Path)
		_ = f.Close()
	}
	c.mu.Unlock()
	c.next.ServeHTTP(w, r)
}

// withWarmer puts the warmer into the PATH of a script.
func withWarmer(env *testscript.Env) error {
	bin := filepath.Join(env.WorkDir, ".bin")
	out, err := exec.Command("go", "build", "-o", bin+"/", "./warmer").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the warmer: %w\n%s", err, out)
	}
	env.Setenv("PATH", env.Getenv("PATH")+string(os.PathListSeparator)+bin)
	return nil
}

// isWarmer tells whether a script is about the warmer.
func isWarmer(env *testscript.Env) bool {
	return strings.Contains(filepath.Base(env.WorkDir), "warmer")
}
