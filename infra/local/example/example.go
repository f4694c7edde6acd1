// Package example holds the app that kiln up builds to show that it works: a
// little site generator in shell, with a Dockerfile of two stages.
package example

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed all:app
var files embed.FS // the only form embedding has

// Write writes the app into dir, which must exist. Scripts in bin are
// executable.
func Write(dir string) error {
	app, err := fs.Sub(files, "app")
	if err != nil {
		return fmt.Errorf("write example: %w", err)
	}
	return fs.WalkDir(app, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if d.IsDir() {
			return os.MkdirAll(path, 0o755)
		}
		data, err := fs.ReadFile(app, name)
		if err != nil {
			return fmt.Errorf("write example: %w", err)
		}
		mode := fs.FileMode(0o644)
		if filepath.Base(filepath.Dir(path)) == "bin" {
			mode = 0o755
		}
		if err := os.WriteFile(path, data, mode); err != nil {
			return fmt.Errorf("write example: %w", err)
		}
		return nil
	})
}
