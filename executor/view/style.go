package view

import (
	"fmt"
	"strings"
	"time"
)

// reset ends all colours.
const reset = "\x1b[0m"

// style colours text; the zero value leaves it as it is.
type style struct{ color bool }

func (s style) sgr(code, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + reset
}

func (s style) dim(text string) string    { return s.sgr("2", text) }
func (s style) bold(text string) string   { return s.sgr("1", text) }
func (s style) green(text string) string  { return s.sgr("32", text) }
func (s style) red(text string) string    { return s.sgr("31", text) }
func (s style) yellow(text string) string { return s.sgr("33", text) }
func (s style) blue(text string) string   { return s.sgr("36", text) }

// foreign cleans what a process printed, with its colours if there are any.
func (s style) foreign(line string) string {
	if s.color {
		return Tint(line)
	}
	return Clean(line)
}

// join puts left and right at the two ends of a line of so many columns, and
// cuts left to make room.
func join(left, right string, columns int) string {
	if right == "" {
		return fit(left, columns)
	}
	left = fit(left, columns-textWidth(right)-1)
	return left + strings.Repeat(" ", max(columns-textWidth(left)-textWidth(right), 1)) + right
}

// Bytes is a number of bytes for people: "12.3MB".
func Bytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	v, i := float64(n), 0
	for v >= 999.95 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%s", v, units[i])
}

// amount is how far a transfer is: "12.3MB / 40.0MB".
func amount(current, total int64) string {
	if total > 0 {
		return Bytes(current) + " / " + Bytes(total)
	}
	return Bytes(current)
}

// seconds is a duration for people: "0.1s", "75.3s".
func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", max(d, 0).Seconds()) }
