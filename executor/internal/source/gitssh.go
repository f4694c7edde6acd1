package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	gittransport "github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/crypto/ssh"
)

// sshRemote asks a server's git-upload-pack over ssh. It is a packSession.
type sshRemote struct {
	client *sshClient
	path   string
	ready  *sshExchange // one that has told its refs and was asked nothing yet
}

// openSSH connects to the server of a repository.
func openSSH(ctx context.Context, g *gitFetch, spec gitSpec) (*sshRemote, error) {
	u := *spec.url
	u.User = spec.user
	client, err := dialSSH(ctx, &u, g.opt.SSH)
	if err != nil {
		return nil, err
	}
	return &sshRemote{client: client, path: spec.path}, nil
}

// sshExchange is one run of git-upload-pack.
type sshExchange struct {
	session *ssh.Session
	in      io.WriteCloser
	out     io.Reader
	said    *saying
}

// maxSaid is how much of what a program says is kept, in bytes.
const maxSaid = 4 << 10

// saying keeps the beginning of what a program says on its standard error.
type saying struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *saying) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Write(p[:min(len(p), maxSaid-s.buf.Len())])
	return len(p), nil
}

func (s *saying) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(strings.Fields(s.buf.String()), " ")
}

// begin starts git-upload-pack, which tells its refs.
func (r *sshRemote) begin(ctx context.Context) (*sshExchange, *packp.AdvRefs, error) {
	session, err := r.client.NewSession()
	if err != nil {
		return nil, nil, sshFailed(ctx, err)
	}
	x := &sshExchange{session: session, said: &saying{}}
	session.Stderr = x.said
	if x.in, err = session.StdinPipe(); err == nil {
		x.out, err = session.StdoutPipe()
	}
	if err == nil {
		err = session.Start("git-upload-pack " + shellQuote(r.path))
	}
	refs := packp.NewAdvRefs()
	if err == nil {
		err = refs.Decode(x.out)
	}
	if err == nil && refs.IsEmpty() {
		err = packp.ErrEmptyAdvRefs
	}
	if err == nil {
		gittransport.FilterUnsupportedCapabilities(refs.Capabilities)
		return x, refs, nil
	}
	_ = x.in.Close()
	_ = session.Wait() // its last words
	_ = session.Close()
	return nil, nil, x.failed(ctx, err)
}

// failed says what it means that the server ended the conversation.
func (x *sshExchange) failed(ctx context.Context, err error) error {
	said := x.said.String()
	lower := strings.ToLower(said)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, packp.ErrEmptyAdvRefs):
		return gittransport.ErrEmptyRemoteRepository
	case strings.Contains(lower, "not found"), strings.Contains(lower, "does not exist"), strings.Contains(lower, "not appear to be a git repository"):
		return fmt.Errorf("repository %w; the server says: %s", ErrNotFound, said)
	case said != "":
		return &saidError{err, said}
	}
	return err
}

// saidError is the error of a conversation that a server ended with a reason.
type saidError struct {
	err  error
	said string
}

func (e *saidError) Error() string { return e.err.Error() + "; the server says: " + e.said }
func (e *saidError) Unwrap() error { return e.err }

// sshFailed tells an end that was asked for from another.
func sshFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("talk to the ssh server: %w", err)
}

// shellQuote quotes a word as Git does for the shell of a server.
func shellQuote(word string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(word) + "'"
}

// AdvertisedReferencesContext asks what the repository has.
func (r *sshRemote) AdvertisedReferencesContext(ctx context.Context) (*packp.AdvRefs, error) {
	x, refs, err := r.begin(ctx)
	r.ready = x
	return refs, err
}

// UploadPack asks for objects.
func (r *sshRemote) UploadPack(ctx context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	x := r.ready
	r.ready = nil
	if x == nil {
		var err error
		if x, _, err = r.begin(ctx); err != nil {
			return nil, err
		}
	}
	if err := x.ask(req); err != nil {
		_ = x.session.Close()
		return nil, x.failed(ctx, err)
	}
	resp := packp.NewUploadPackResponse(req)
	if err := resp.Decode(&sshAnswer{x}); err != nil {
		_ = x.session.Wait()
		return nil, x.failed(ctx, err)
	}
	return resp, nil
}

func (x *sshExchange) ask(req *packp.UploadPackRequest) error {
	if err := req.UploadRequest.Encode(x.in); err != nil {
		return err
	}
	if err := req.UploadHaves.Encode(x.in, false); err != nil {
		return err
	}
	if err := pktline.NewEncoder(x.in).Encodef("done\n"); err != nil {
		return err
	}
	return x.in.Close()
}

// sshAnswer is what git-upload-pack answers; closing it ends the run.
type sshAnswer struct{ x *sshExchange }

func (a *sshAnswer) Read(p []byte) (int, error) { return a.x.out.Read(p) }
func (a *sshAnswer) Close() error               { return a.x.session.Close() }

// Close ends the connection.
func (r *sshRemote) Close() error {
	if r.ready != nil {
		_ = r.ready.session.Close()
	}
	r.client.close()
	return nil
}

// run runs a program on the server and returns what it prints.
func (r *sshRemote) run(ctx context.Context, command string) ([]byte, error) {
	session, err := r.client.NewSession()
	if err != nil {
		return nil, sshFailed(ctx, err)
	}
	defer func() { _ = session.Close() }()
	said := &saying{}
	session.Stderr = said
	out, err := session.Output(command)
	if err != nil {
		return nil, fmt.Errorf("%w; the server says: %s", sshFailed(ctx, err), said)
	}
	return out, nil
}
