// Package load sends the dispatcher more webhooks than a busy forge does, with
// vegeta as a program of its own, and looks at how fast they are acknowledged,
// that none is lost and that none is built twice. make load runs it at full
// length and prints the figures.
package load
