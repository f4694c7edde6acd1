package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
	"github.com/kilnhook/kiln/executor/internal/source"
)

// readDockerfile looks for the Dockerfile in the context first, and then in the
// working directory, where kaniko looks first: what lies there by chance must not
// be built in place of what was sent.
func (s *session) readDockerfile(ctx context.Context, contextDir string) (name string, content []byte, err error) {
	if name, ok := urlName(s.c.dockerfile); ok {
		content, err := source.GetSmall(ctx, s.c.dockerfile, dockerfile.MaxSize, s.userAgent())
		if err != nil {
			return name, nil, fmt.Errorf("get Dockerfile %s: %w", source.Redact(s.c.dockerfile), err)
		}
		return name, content, nil
	}
	name = filepath.Base(s.c.dockerfile)
	if filepath.IsLocal(s.c.dockerfile) {
		if content, err = readInContext(contextDir, s.c.dockerfile); !errors.Is(err, fs.ErrNotExist) {
			s.tellOther(contextDir)
			return name, content, err
		}
	}
	content, err = readLimited(s.c.dockerfile)
	if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(s.c.dockerfile) {
		err = fmt.Errorf("there is no %s, neither in the context nor in the working directory: set --dockerfile", s.c.dockerfile)
	}
	return name, content, err
}

// readInContext reads a file of the context, by its local name.
func readInContext(contextDir, name string) ([]byte, error) {
	dir, err := os.OpenRoot(contextDir)
	if err != nil {
		return nil, fmt.Errorf("open context: %w", err)
	}
	defer dir.Close()
	f, err := dir.Open(filepath.Clean(name))
	if err != nil {
		return nil, fmt.Errorf("open Dockerfile: %w", err)
	}
	defer f.Close()
	return readAll(f)
}

// tellOther warns of a Dockerfile in the working directory, which kaniko would
// read in place of the context's.
func (s *session) tellOther(contextDir string) {
	here, err := os.Stat(s.c.dockerfile)
	if err != nil {
		return
	}
	inContext, err := os.Stat(filepath.Join(contextDir, s.c.dockerfile))
	if err == nil && !os.SameFile(here, inContext) {
		s.note("warning: %s is read in the context, not in the working directory, which has one too: to read that, name it by its full path", s.c.dockerfile)
	}
}

// readIgnore reads <Dockerfile>.dockerignore, or else .dockerignore.
func (s *session) readIgnore(contextDir, dockerfileName string) (*dockerfile.Ignore, error) {
	inContext := filepath.Clean(s.c.dockerfile)
	if _, ok := urlName(s.c.dockerfile); ok || filepath.IsAbs(inContext) {
		inContext = dockerfileName
	}
	for _, name := range dockerfile.IgnoreNames(inContext) {
		ignore, err := readIgnoreFile(contextDir, name)
		if !errors.Is(err, fs.ErrNotExist) {
			return ignore, err
		}
	}
	return nil, nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

// readAll reads a Dockerfile or an ignore file, which are small.
func readAll(f *os.File) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, dockerfile.MaxSize+1))
	if err == nil && len(b) > dockerfile.MaxSize {
		err = fmt.Errorf("the file is larger than %d MiB", dockerfile.MaxSize>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return b, nil
}

// urlName is the name of the file that an http or https URL leads to.
func urlName(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "", false
	}
	if name := path.Base(u.Path); name != "/" && name != "." {
		return name, true
	}
	return "Dockerfile", true
}
