package console

import (
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

type uploadPage struct {
	page
	Triggers []string
	Most     string
}

func (c *Console) serveUploadForm(w http.ResponseWriter, _ *http.Request) error {
	if c.cfg.Submit == nil {
		return notFound("contexts are not uploaded here")
	}
	return c.render(w, http.StatusOK, "upload", uploadPage{page: c.page("upload", "/upload"), Triggers: c.index.names(), Most: buildlog.Bytes(c.cfg.MaxUpload)})
}

// maxField is the length of a field of the form in bytes.
const maxField = 200

// serveUpload takes the form: the fields first, then the archive, which is passed on
// as it comes.
func (c *Console) serveUpload(w http.ResponseWriter, r *http.Request) error {
	if c.cfg.Submit == nil {
		return notFound("contexts are not uploaded here")
	}
	r.Body = http.MaxBytesReader(w, r.Body, c.cfg.MaxUpload)
	form, err := r.MultipartReader()
	if err != nil {
		return badRequest("this is not the form of the page")
	}
	var u Upload
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return badRequest("choose an archive of the context")
		}
		if err != nil {
			return unreceived(err)
		}
		if part.FormName() != "archive" {
			if err := u.field(part); err != nil {
				return err
			}
			continue
		}
		id, err := c.submit(r, u, part)
		if err != nil {
			return err
		}
		http.Redirect(w, r, "/builds/"+url.PathEscape(id), http.StatusSeeOther)
		return nil
	}
}

// field reads one of the fields before the archive.
func (u *Upload) field(part *multipart.Part) error {
	data, err := io.ReadAll(io.LimitReader(part, maxField+1))
	if err != nil {
		return unreceived(err)
	}
	text := strings.TrimSpace(string(data))
	if len(data) > maxField || strings.ContainsAny(text, "\r\n") {
		return badRequest("the field %q is too long", part.FormName())
	}
	switch part.FormName() {
	case "name":
		u.Name = text
	case "trigger":
		u.Trigger = text
	case "tag":
		u.Tag = text
	}
	return nil
}

// submit hands the archive on.
func (c *Console) submit(r *http.Request, u Upload, part *multipart.Part) (id string, err error) {
	if u.Name == "" {
		u.Name = appName(part.FileName())
	}
	if slug := trigger.Slug(u.Name); u.Name == "" || slug != u.Name {
		return "", badRequest("%q cannot name an app: use lower-case letters, digits and dashes, as in %q", u.Name, trigger.Slug(appName(u.Name+".tar")))
	}
	if slug := trigger.Slug(u.Tag); slug != u.Tag {
		return "", badRequest("%q cannot be a tag; %q can", u.Tag, slug)
	}
	seen := &watched{r: part}
	u.Content = seen
	id, err = c.cfg.Submit(r.Context(), u)
	switch {
	case !seen.any && seen.failed == nil:
		return "", badRequest("choose an archive of the context: what was sent is empty")
	case seen.failed != nil:
		return "", unreceived(seen.failed)
	case err != nil:
		return "", &statusError{http.StatusConflict, "nothing was built: " + events.CleanText(err.Error(), events.MaxMessage)}
	}
	return id, nil
}

// watched notices whether there was anything to read, and what failed.
type watched struct {
	r      io.Reader
	any    bool
	failed error
}

func (e *watched) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.any = e.any || n > 0
	if err != nil && !errors.Is(err, io.EOF) {
		e.failed = err
	}
	return n, err
}

// appName makes the name of an app of that of a file.
func appName(file string) string {
	base := path.Base(strings.ReplaceAll(file, "\\", "/"))
	for _, ext := range []string{".gz", ".tgz", ".zst", ".xz", ".bz2", ".tar"} {
		base = strings.TrimSuffix(base, ext)
	}
	if base == "." || base == "/" {
		return ""
	}
	return trigger.Slug(base)
}

// unreceived is the answer to a form that did not come whole.
func unreceived(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the archive is larger than %s: leave out what the build does not need", buildlog.Bytes(large.Limit))}
	}
	return badRequest("the upload did not arrive whole: send it again")
}
