package plan

import (
	"fmt"
	"io/fs"
	"strconv"

	mode "github.com/tonistiigi/dchapes-mode"
)

// checkMode checks the value of --chmod and gives an octal one at least four
// digits.
func checkMode(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if n, err := strconv.ParseUint(s, 8, 32); err == nil && n <= 0o7777 {
		return fmt.Sprintf("%04o", n), nil
	}
	if _, err := ParseMode(s); err != nil {
		return "", err
	}
	return s, nil
}

// Mode is the value of --chmod.
type Mode struct {
	// Octal are the bits that files get; nil for a symbolic mode.
	Octal *fs.FileMode

	symbolic mode.Set
}

// modeBits are the bits of a mode that chmod sets.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// ParseMode reads Placing.Chmod: a number from 0 to 07777, or changes such as
// "u=rwX,go-w" as chmod(1) takes them, without a umask.
func ParseMode(s string) (Mode, error) {
	invalid := fmt.Errorf("invalid mode %q: it must be octal, from 0 to 07777, or symbolic, such as u=rwX,go=rX", s)
	if s != "" && s[0] >= '0' && s[0] <= '9' {
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n > 0o7777 {
			return Mode{}, invalid
		}
		m := fs.FileMode(n & 0o777)
		for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
			if n&bit != 0 {
				m |= flag
			}
		}
		return Mode{Octal: &m}, nil
	}
	set, err := mode.ParseWithUmask(s, 0)
	if err != nil {
		return Mode{}, invalid
	}
	return Mode{symbolic: set}, nil
}

// Apply returns what becomes of the mode of a file, whose type stays.
func (m Mode) Apply(old fs.FileMode) fs.FileMode {
	bits := fs.FileMode(0)
	if m.Octal != nil {
		bits = *m.Octal
	} else {
		bits = m.symbolic.Apply(old)
	}
	return old&^modeBits | bits&modeBits
}
