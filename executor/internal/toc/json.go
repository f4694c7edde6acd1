package toc

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// scanner reads JSON (RFC 8259) piece by piece. A table of contents is megabytes of
// it, of which it holds one string at a time: it takes a tenth of the time of
// encoding/json, which finds the end of each value before it reads it, and its memory
// has a bound. What follows an error is nothing.
type scanner struct {
	r        io.Reader
	buf      []byte
	pos, end int
	text     []byte // a string that is not in buf as a whole
	err      error
}

const (
	maxText  = 1 << 20 // bytes of a string: as of a name in a layer's index
	maxDepth = 32      // of what is skipped
)

// errJSON is the error of what is no table of contents.
var errJSON = errors.New("its JSON is malformed")

func newScanner(r io.Reader) *scanner { return &scanner{r: r, buf: make([]byte, 64<<10)} }

func (s *scanner) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// more reads on. It returns false at the end and after an error.
func (s *scanner) more() bool {
	if s.err != nil {
		return false
	}
	for range 100 {
		n, err := s.r.Read(s.buf)
		s.pos, s.end = 0, n
		if n > 0 {
			return true // the error comes again
		}
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			s.fail(err)
			return false
		}
	}
	s.fail(io.ErrNoProgress)
	return false
}

// next returns the byte that is next, without white space, and leaves it; 0 at the end.
func (s *scanner) next() byte {
	for s.pos < s.end || s.more() {
		switch c := s.buf[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// got takes c if that is next.
func (s *scanner) got(c byte) bool {
	if s.next() != c {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) want(c byte) {
	if s.err == nil && !s.got(c) {
		s.fail(fmt.Errorf("%w: %q is missing", errJSON, c))
	}
}

// byte takes the byte that is next, white space or not.
func (s *scanner) byte() byte {
	if s.pos == s.end && !s.more() {
		s.fail(io.ErrUnexpectedEOF)
		return 0
	}
	s.pos++
	return s.buf[s.pos-1]
}

// string reads a string. It is valid until the scanner reads on.
func (s *scanner) string() []byte {
	s.want('"')
	if s.err != nil {
		return nil
	}
	for i, c := range s.buf[s.pos:s.end] {
		if c == '"' {
			out := s.buf[s.pos : s.pos+i]
			s.pos += i + 1
			return s.valid(out)
		}
		if c == '\\' || c < ' ' {
			break
		}
	}
	s.text = s.text[:0]
	for s.err == nil {
		c := s.byte()
		switch {
		case c == '"':
			return s.valid(s.text)
		case c < ' ':
			s.fail(fmt.Errorf("%w: a string has a control character", errJSON))
		case len(s.text) > maxText:
			s.fail(fmt.Errorf("%w: a string is too long", errJSON))
		case c == '\\':
			s.escape()
		default:
			s.text = append(s.text, c)
		}
	}
	return nil
}

func (s *scanner) valid(text []byte) []byte {
	if !utf8.Valid(text) {
		s.fail(fmt.Errorf("%w: a string is not UTF-8", errJSON))
		return nil
	}
	return text
}

func (s *scanner) escape() {
	switch c := s.byte(); c {
	case '"', '\\', '/':
		s.text = append(s.text, c)
	case 'b':
		s.text = append(s.text, '\b')
	case 'f':
		s.text = append(s.text, '\f')
	case 'n':
		s.text = append(s.text, '\n')
	case 'r':
		s.text = append(s.text, '\r')
	case 't':
		s.text = append(s.text, '\t')
	case 'u':
		s.unicode()
	default:
		s.fail(fmt.Errorf("%w: it escapes %q", errJSON, c))
	}
}

// unicode reads what follows \u. Half of a surrogate pair is an error.
func (s *scanner) unicode() {
	r := s.hex()
	switch {
	case r >= 0xd800 && r < 0xdc00:
		if s.byte() != '\\' || s.byte() != 'u' {
			s.fail(fmt.Errorf("%w: half a surrogate pair", errJSON))
			return
		}
		low := s.hex()
		if low < 0xdc00 || low > 0xdfff {
			s.fail(fmt.Errorf("%w: half a surrogate pair", errJSON))
			return
		}
		r = 0x10000 + (r-0xd800)<<10 + (low - 0xdc00)
	case r >= 0xdc00 && r <= 0xdfff:
		s.fail(fmt.Errorf("%w: half a surrogate pair", errJSON))
		return
	}
	s.text = utf8.AppendRune(s.text, r)
}

func (s *scanner) hex() (r rune) {
	for range 4 {
		c := s.byte()
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			s.fail(fmt.Errorf("%w: \\u without four digits", errJSON))
		}
	}
	return r
}

// digit tells whether a digit is next, white space not passed by.
func (s *scanner) digit() bool {
	return (s.pos < s.end || s.more()) && s.buf[s.pos] >= '0' && s.buf[s.pos] <= '9'
}

// one takes one of two bytes if that is next, white space not passed by.
func (s *scanner) one(a, b byte) bool {
	ok := (s.pos < s.end || s.more()) && (s.buf[s.pos] == a || s.buf[s.pos] == b)
	if ok {
		s.pos++
	}
	return ok
}

// number reads an integer. Others are errors: no field that counts has them.
func (s *scanner) number() int64 {
	negative := s.got('-')
	n := s.whole()
	if s.err == nil && (s.one('.', '.') || s.one('e', 'E')) {
		s.fail(fmt.Errorf("%w: a number is not whole", errJSON))
	}
	if negative {
		return -n
	}
	return n
}

// whole reads digits, the first of which is 0 only if there is no other.
func (s *scanner) whole() (n int64) {
	digits := 0
	for ; s.digit(); digits++ {
		if digits == 18 || digits > 0 && n == 0 {
			s.fail(fmt.Errorf("%w: a number is too large", errJSON))
			return 0
		}
		n = n*10 + int64(s.buf[s.pos]-'0')
		s.pos++
	}
	if digits == 0 {
		s.fail(fmt.Errorf("%w: a number is missing", errJSON))
	}
	return n
}

// object calls field for each name of an object, which must read its value. The name
// is valid until it reads on.
func (s *scanner) object(field func(name []byte)) {
	s.want('{')
	if s.got('}') {
		return
	}
	for s.err == nil {
		name := s.string()
		s.colonAfter(name, field)
		if !s.got(',') {
			break
		}
	}
	s.want('}')
}

// colonAfter keeps the name while the colon after it is read: it may lie in what is
// read over.
func (s *scanner) colonAfter(name []byte, field func(name []byte)) {
	var short [32]byte
	n := copy(short[:], name)
	if len(name) > len(short) {
		name = append([]byte(nil), name...)
	} else {
		name = short[:n]
	}
	s.want(':')
	if s.err == nil {
		field(name)
	}
}

// array calls value for each value of an array, which must read it.
func (s *scanner) array(value func()) {
	s.want('[')
	if s.got(']') {
		return
	}
	for s.err == nil {
		value()
		if !s.got(',') {
			break
		}
	}
	s.want(']')
}

// skip reads any value.
func (s *scanner) skip(depth int) {
	if depth == maxDepth {
		s.fail(fmt.Errorf("%w: it is nested too deep", errJSON))
	}
	if s.err != nil {
		return
	}
	switch c := s.next(); {
	case c == '{':
		s.object(func([]byte) { s.skip(depth + 1) })
	case c == '[':
		s.array(func() { s.skip(depth + 1) })
	case c == '"':
		s.string()
	case c == 't':
		s.word("true")
	case c == 'f':
		s.word("false")
	case c == 'n':
		s.word("null")
	default:
		s.anyNumber()
	}
}

func (s *scanner) word(w string) {
	for i := range len(w) {
		if s.byte() != w[i] {
			s.fail(fmt.Errorf("%w: no value", errJSON))
			return
		}
	}
}

// anyNumber passes by a number that nobody asks for.
func (s *scanner) anyNumber() {
	s.got('-')
	s.whole()
	if s.one('.', '.') {
		s.digits()
	}
	if s.one('e', 'E') {
		s.one('+', '-')
		s.digits()
	}
}

func (s *scanner) digits() {
	n := 0
	for ; s.digit(); n++ {
		s.pos++
	}
	if n == 0 {
		s.fail(fmt.Errorf("%w: a number is missing", errJSON))
	}
}

// finish makes sure that nothing follows.
func (s *scanner) finish() error {
	if s.err == nil && s.next() != 0 {
		s.fail(fmt.Errorf("%w: something follows it", errJSON))
	}
	if errors.Is(s.err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return s.err
}
