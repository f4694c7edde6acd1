package gitd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/infra/local/durable"
)

const (
	spoolName   = "spool"
	addressName = "address.json"
)

// address is where the hook reports, and proves that it may. It is readable by
// the owner only and replaced at every start.
type address struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

// report is what one push did, and what a spool file holds.
type report struct {
	Dir     string   `json:"dir"` // of the repository
	Options []string `json:"options,omitempty"`
	Refs    []move   `json:"refs"`
}

// move is one ref that moved.
type move struct {
	Before string `json:"before"`
	After  string `json:"after"`
	Ref    string `json:"ref"`
}

// installHook writes the hook that all repositories share. The shell part
// spools what git says, so that nothing is lost even if our program is gone,
// and then runs our program.
func (s *Server) installHook() error {
	var command []string
	for _, arg := range s.cfg.HookArgs {
		command = append(command, quote(arg))
	}
	script := `#!/bin/sh
# Written by kiln at every start. Reports pushed refs; see gitd.RunHook.
file=` + quote(filepath.Join(s.cfg.Hooks, spoolName)) + `/$(date +%s)-$$
{
	pwd -P
	echo "options ${GIT_PUSH_OPTION_COUNT:-0}"
	i=0
	while [ "$i" -lt "${GIT_PUSH_OPTION_COUNT:-0}" ]; do
		eval "printf '%s\n' \"\$GIT_PUSH_OPTION_$i\"" | tr '\n' ' '
		echo
		i=$((i + 1))
	done
	cat
} >"$file.tmp" && mv "$file.tmp" "$file.push" || echo 'kiln: could not note this push; its build starts when kiln looks at the repository again'
` + strings.Join(command, " ") + ` ` + quote(s.cfg.Hooks) + ` "$file.push" || echo 'kiln: the stack did not answer; the build starts when it is up again'
exit 0
`
	path := filepath.Join(s.cfg.Hooks, "post-receive")
	if err := durable.WriteFile(path, []byte(script), 0o700); err != nil {
		return fmt.Errorf("install hook: %w", err)
	}
	return nil
}

// quote quotes s for sh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// SetURL tells the hook where the server listens: url is the address of
// [Server.ReportHandler]. Until then, reports wait in the spool.
func (s *Server) SetURL(url string) error {
	data, err := json.Marshal(address{URL: url, Token: s.token})
	if err != nil {
		return fmt.Errorf("tell hook its address: %w", err)
	}
	return durable.WriteFile(filepath.Join(s.cfg.Hooks, addressName), data, 0o600)
}

// RunHook is the hook's own program: args are the hook directory and the spool
// file to report. What it writes to out reaches the pusher. An error means that
// the report waits in the spool.
func RunHook(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("report push: two arguments are needed, the hook directory and a spool file; git runs this, nobody else")
	}
	data, err := os.ReadFile(filepath.Join(args[0], addressName))
	if err != nil {
		return fmt.Errorf("report push: %w", err)
	}
	var to address
	if err := json.Unmarshal(data, &to); err != nil {
		return fmt.Errorf("report push: read address: %w", err)
	}
	rep, err := readSpool(args[1])
	if err != nil {
		return fmt.Errorf("report push: %w", err)
	}
	body, err := json.Marshal(rep)
	if err != nil {
		return fmt.Errorf("report push: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the stack took longer than a minute"))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("report push: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+to.Token)
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{}} // loopback: no proxy
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("report push: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("report push: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("report push: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	if _, err := out.Write(text); err != nil {
		return fmt.Errorf("report push: tell the pusher: %w", err)
	}
	return durable.Remove(args[1])
}

// readSpool reads a file that the hook's shell part wrote: the repository's
// directory, "options N", N options, and git's own "before after ref" lines.
func readSpool(path string) (report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return report{}, err
	}
	rep, err := parseSpool(string(data))
	if err != nil {
		return report{}, fmt.Errorf("%s: %w", path, err)
	}
	return rep, nil
}

func parseSpool(text string) (report, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 2 {
		return report{}, errors.New("not a spooled push: fewer than two lines")
	}
	rep := report{Dir: lines[0]}
	count, ok := strings.CutPrefix(lines[1], "options ")
	n, err := strconv.Atoi(count)
	if lines = lines[2:]; !ok || err != nil || n < 0 || n > len(lines) {
		return report{}, errors.New("not a spooled push: no number of options")
	}
	for _, o := range lines[:n] {
		rep.Options = append(rep.Options, strings.TrimSpace(o))
	}
	for _, line := range lines[n:] {
		f := strings.SplitN(line, " ", 3)
		if len(f) != 3 || !strings.HasPrefix(f[2], "refs/") {
			return report{}, fmt.Errorf("not a spooled push: %q is not what git says of a ref", line)
		}
		rep.Refs = append(rep.Refs, move{Before: f[0], After: f[1], Ref: f[2]})
	}
	return rep, nil
}
