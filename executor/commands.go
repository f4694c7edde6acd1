package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kilnhook/kiln/executor/internal/access"
	"github.com/kilnhook/kiln/executor/internal/image"
	"github.com/kilnhook/kiln/executor/internal/registry"
)

// command runs the subcommand that the command line names, and says whether
// there is one.
func command(ctx context.Context, p process) (status int, acted bool) {
	if len(p.args) < 2 {
		return 0, false
	}
	var err error
	switch p.args[1] {
	case "version":
		_, err = fmt.Fprintln(p.stdout, "kiln executor", version)
	case "push":
		err = pushCommand(ctx, p)
	case "login":
		err = loginCommand(ctx, p)
	case "doctor":
		err = doctorCommand(ctx, p)
	case "completion":
		err = completion(p)
	default:
		return 0, false
	}
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(p.stderr, "error:", err)
		return 1, true
	}
	return 0, true
}

// subcommand parses the flags of a subcommand with one argument, among them
// those about registries.
func subcommand(p process, name, argument string, more func(*pflag.FlagSet, *config)) (*session, string, error) {
	var c config
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	f.SetOutput(p.stderr)
	f.Usage = func() {
		fmt.Fprintf(p.stderr, "Usage:\n  executor %s %s [flags]\n\nFlags:\n%s", name, argument, f.FlagUsages())
	}
	more(f, &c)
	c.registry.DefineForPush(f)
	if err := access.Parse(f, p.args[2:]); err != nil {
		return nil, "", err
	}
	if f.NArg() != 1 {
		return nil, "", fmt.Errorf("executor %s needs one argument, %s: see --help", name, argument)
	}
	c.registry.Environment(p.lookup, f)
	return &session{c: &c, p: p, log: slog.New(slog.NewTextHandler(p.stderr, nil))}, f.Arg(0), nil
}

// pushCommand pushes an image that --tar-path or --oci-layout-path has
// written, or docker save.
func pushCommand(ctx context.Context, p process) error {
	s, from, err := subcommand(p, "push", "FILE|DIRECTORY", func(f *pflag.FlagSet, c *config) {
		f.StringArrayVarP(&c.destinations, "destination", "d", nil, "`reference` to push to; repeatable")
		f.StringVar(&c.digestFile, "digest-file", "", "write the digest to `file`, once the image is where it should be")
	})
	if err != nil {
		return err
	}
	if len(s.c.destinations) == 0 {
		return errors.New("you must provide --destination")
	}
	temp, err := newWorkDir(s.c, p.lookup)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	img, err := image.Read(from, temp)
	if err != nil {
		return err
	}
	client, err := s.newClient()
	if err != nil {
		return err
	}
	push, err := client.Push(s.c.destinations...)
	if err != nil {
		return err
	}
	digest, err := push.Finish(ctx, img, false)
	if err != nil {
		return err
	}
	for _, d := range s.c.destinations {
		repo, _ := splitDestination(d)
		fmt.Fprintf(p.stdout, "%s@%s\n", repo, digest)
	}
	if s.c.digestFile == "" {
		return nil
	}
	if err := writeOutput(ctx, s.c.digestFile, []byte(digest.String()), s.userAgent()); err != nil {
		return fmt.Errorf("write digest file: %w", err)
	}
	return nil
}

// loginCommand checks a password with a registry and keeps it where builds
// find it.
func loginCommand(ctx context.Context, p process) error {
	var username, password string
	var stdin bool
	s, host, err := subcommand(p, "login", "REGISTRY", func(f *pflag.FlagSet, _ *config) {
		f.StringVarP(&username, "username", "u", "", "`name` of the user")
		f.StringVarP(&password, "password", "p", "", "`password`; others can see it in the list of processes")
		f.BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	})
	if err != nil {
		return err
	}
	if stdin {
		if password != "" {
			return errors.New("--password and --password-stdin exclude each other")
		}
		raw, err := io.ReadAll(io.LimitReader(p.stdin, 64<<10))
		if err != nil {
			return fmt.Errorf("read password: %w", err)
		}
		password = strings.TrimRight(string(raw), "\r\n")
	}
	if username == "" || password == "" {
		return errors.New("a user and a password are needed: use --username and --password-stdin")
	}
	client, err := s.newClient()
	if err != nil {
		return err
	}
	if err := client.CheckLogin(ctx, host, username, password); err != nil {
		return err
	}
	path := s.loginFile()
	if err := registry.SaveLogin(path, host, username, password); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "logged in to %s as %s, saved in %s\n", host, username, path)
	return nil
}

// loginFile is the Docker config that builds look into first, of those that
// can be there.
func (s *session) loginFile() string {
	dir := s.env("DOCKER_CONFIG")
	if _, err := os.Stat(s.c.registry.KanikoDir); dir == "" && err == nil {
		dir = filepath.Join(s.c.registry.KanikoDir, ".docker")
	}
	if dir == "" {
		dir = filepath.Join(s.env("HOME"), ".docker")
	}
	return filepath.Join(dir, "config.json")
}
