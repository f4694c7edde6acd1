package show

import (
	"bytes"
	"io"
	"text/tabwriter"
)

// table lays out lines whose cells end with tabs, and writes them without spaces at
// their ends. A line without a tab begins a table with columns of its own.
type table struct {
	*tabwriter.Writer
	laid bytes.Buffer
	out  io.Writer
}

func newTable(out io.Writer) *table {
	t := &table{out: out}
	t.Writer = tabwriter.NewWriter(&t.laid, 0, 4, 2, ' ', 0)
	return t
}

// Flush writes everything.
func (t *table) Flush() error {
	if err := t.Writer.Flush(); err != nil {
		return err
	}
	var text bytes.Buffer
	for line := range bytes.Lines(t.laid.Bytes()) {
		text.Write(bytes.TrimRight(line, " \n"))
		text.WriteByte('\n')
	}
	t.laid.Reset()
	_, err := t.out.Write(text.Bytes())
	return err
}
