package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/infra/imagediff"
	"github.com/kilnhook/kiln/infra/kiln/internal/client"
	"github.com/kilnhook/kiln/infra/kiln/internal/show"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/buildlog"
	"github.com/kilnhook/kiln/infra/local/registry"
)

// errDiffers ends kiln diff --exit-code when something differs.
var errDiffers = errors.New("the images differ")

// diffFlags are the flags of kiln diff.
type diffFlags struct {
	plain    []string
	files    int
	exitCode bool
}

func (a *app) diff() *cobra.Command {
	var f diffFlags
	cmd := &cobra.Command{
		Use: "diff FIRST SECOND", ValidArgsFunction: a.completeBuilds(2), Short: "say in what two builds, or two images, differ",
		Long: "Say in what two builds differ: what was asked for, and of their images configuration, layers and files.\n" +
			"FIRST and SECOND are ids of builds or their beginnings, or references of images (host/name:tag or @digest).\n" +
			"Layers that only one of them has are read from the registry, with the credentials of docker login.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return &usageError{fmt.Errorf("%s takes two arguments, builds or images", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.runDiff(cmd.Context(), args, f) },
	}
	cmd.Flags().IntVar(&f.files, "files", 50, "number of files that are named, those that grew or shrank most; 0 is all")
	cmd.Flags().BoolVar(&f.exitCode, "exit-code", false, "exit with status 1 if the images differ")
	cmd.Flags().StringSliceVar(&f.plain, "insecure-registry", nil, "registry without TLS, beside those of this machine")
	return cmd
}

// side is one of the two that are compared.
type side struct {
	Ref   string     `json:"ref"`             // repository@digest
	Build *api.Build `json:"build,omitempty"` // nil: an image was named
	image v1.Image
}

// compared is the answer of kiln diff.
type compared struct {
	First  side `json:"first"`
	Second side `json:"second"`
	imagediff.Diff
}

func (a *app) runDiff(ctx context.Context, args []string, f diffFlags) error {
	if f.files < 0 {
		return &usageError{errors.New("--files must not be negative")}
	}
	images := registry.Client{Plain: f.plain}
	var d compared
	for i, into := range []*side{&d.First, &d.Second} {
		var err error
		if *into, err = a.sideOf(ctx, images, args[i]); err != nil {
			return err
		}
	}
	s := show.New(a.Stderr, show.Terminal{Size: a.Terminal.Size, Abilities: a.Terminal.Abilities}, a.Now)
	defer s.Clear()
	var err error
	d.Diff, err = imagediff.Images(ctx, d.First.image, d.Second.image, imagediff.Options{
		Told: func(n int64) { s.Bar("reading layers", n, 0) },
	})
	s.Clear()
	if err != nil {
		return fmt.Errorf("compare %s with %s: %w", d.First.Ref, d.Second.Ref, err)
	}
	if a.json() {
		err = a.printJSON(d)
	} else {
		err = show.Diff(a.Stdout, show.Sides{First: d.First.Ref, Second: d.Second.Ref, Was: d.First.Build, Is: d.Second.Build}, d.Diff, f.files)
	}
	if err == nil && f.exitCode && !d.Same() {
		return errDiffers
	}
	return err
}

// sideOf finds the image of a build, or that which a reference names.
func (a *app) sideOf(ctx context.Context, images registry.Client, arg string) (side, error) {
	if strings.ContainsAny(arg, "/:@") {
		digest, err := images.Resolve(ctx, arg)
		if err != nil {
			return side{}, err
		}
		return imageOf(ctx, images, side{Ref: repository(arg) + "@" + digest})
	}
	c, err := a.client(ctx)
	if err != nil {
		return side{}, err
	}
	b, err := c.Build(ctx, arg)
	if refused, ok := errors.AsType[*client.StatusError](err); ok {
		return side{}, fmt.Errorf("%w (an image is named with its registry, as docker.io/library/%s)", refused, arg)
	}
	if err != nil {
		return side{}, err
	}
	if b.Result == nil || b.Result.Digest == "" {
		state := b.State
		if b.Result != nil {
			state = string(b.Result.Outcome)
		}
		return side{}, fmt.Errorf("build %s has no image: it is %s", buildlog.Short(b.ID), state)
	}
	return imageOf(ctx, images, side{Ref: b.Request.Image + "@" + b.Result.Digest, Build: &b})
}

func imageOf(ctx context.Context, images registry.Client, s side) (side, error) {
	repo, digest, _ := strings.Cut(s.Ref, "@")
	var err error
	s.image, err = images.Image(ctx, repo, digest)
	return s, err
}

// repository is a reference without tag and digest.
func repository(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	return ref
}
