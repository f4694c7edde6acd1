package inflate

// The numbers of RFC 1951, 3.2.5 and 3.2.7.
const (
	maxLit   = 288
	maxDist  = 32
	numLit   = 286 // that mean something
	numDist  = 30
	maxCode  = 15
	endBlock = 256
)

// An entry of a table says what the next bits are:
//
//	bits 0-3    how many bits the code has; 0: there is no such code
//	bits 4-7    how many more bits belong to it
//	bits 8-11   what it is
//	bits 16-31  a literal, the least length or distance, or where a table begins
type entry = uint32

const (
	isLiteral entry = 1 << 8
	isCopy    entry = 1 << 9
	isEnd     entry = 1 << 10
	isTable   entry = 1 << 11 // of longer codes; bits 4-7 are how many more bits its index has
)

// How many bits find an entry at once, and how large tables are: the second are
// powers of two beyond what any set of codes needs with the first (2342 and 402
// entries), so that no index is out of range.
const (
	litBits  = 11
	litSize  = 4096
	distBits = 8
	distSize = 1024
)

type (
	litTable  [litSize]entry
	distTable [distSize]entry
)

// build fills a table from the lengths of canonical codes. means says what a
// symbol is. Codes that are not complete are corrupt, but for a single one of one
// bit, and for none at all.
func build(table []entry, bits uint, lens []uint8, means func(symbol int) entry) bool {
	clear(table[:1<<bits])
	var count [maxCode + 1]int
	for _, n := range lens {
		count[n]++
	}
	count[0] = 0
	most := uint(maxCode)
	for most > 0 && count[most] == 0 {
		most--
	}
	if most == 0 {
		return true
	}
	// Where the symbols of a length begin in the order of codes.
	var at [maxCode + 2]int
	code := 0
	for n := uint(1); n <= most; n++ {
		at[n+1] = at[n] + count[n]
		code = code<<1 + count[n]
	}
	if code != 1<<most && (code != 1 || most != 1) {
		return false
	}
	var order [maxLit]uint16
	for symbol, n := range lens {
		if n > 0 {
			order[at[n]] = uint16(symbol) //nolint:gosec // below 288
			at[n]++
		}
	}
	fillTable(table, bits, lens, order[:at[most]], count, means)
	return true
}

// fillTable fills a table with the codes of symbols in their order.
func fillTable(table []entry, bits uint, lens []uint8, order []uint16, count [maxCode + 1]int, means func(symbol int) entry) {
	free := 1 << bits // where the next table of longer codes goes
	code, last := 0, uint(0)
	for _, symbol := range order {
		n := uint(lens[symbol])
		code <<= n - last
		last = n
		packed := reverse(code, n)
		code++
		what := means(int(symbol))
		if what != 0 {
			what |= entry(n)
		}
		if n <= bits {
			for i := packed; i < 1<<bits; i += 1 << n {
				table[i] = what
			}
			count[n]--
			continue
		}
		first := packed & (1<<bits - 1)
		if table[first]&isTable == 0 {
			more := subBits(count, n, bits)
			table[first] = entry(free)<<16 | isTable | entry(more)<<4 //nolint:gosec // within the table
			clear(table[free : free+1<<more])
			free += 1 << more
		}
		count[n]--
		sub, more := int(table[first]>>16), uint(table[first]>>4&15)
		for i := packed >> bits; i < 1<<more; i += 1 << (n - bits) {
			table[sub+i] = what
		}
	}
}

// subBits is how many more bits the index of a table has whose first code has n
// bits, with so many codes of each length left: as many as its longest needs.
func subBits(count [maxCode + 1]int, n, bits uint) uint {
	more := n - bits
	for left := 1 << more; n < maxCode; left <<= 1 {
		if left -= count[n]; left <= 0 {
			break
		}
		n++
		more++
	}
	return more
}

// reverse reverses the n low bits of code: codes are packed from their highest
// bit on.
func reverse(code int, n uint) int {
	out := 0
	for range n {
		out = out<<1 | code&1
		code >>= 1
	}
	return out
}

func literal(symbol int) entry {
	switch {
	case symbol < endBlock:
		return entry(symbol)<<16 | isLiteral //nolint:gosec // 8 bits
	case symbol == endBlock:
		return isEnd
	case symbol >= numLit:
		return 0
	}
	base, extra := lengthOf(symbol)
	return entry(base)<<16 | isCopy | entry(extra)<<4 //nolint:gosec // small
}

// lengthOf is the least length of a symbol, and how many bits are added.
func lengthOf(symbol int) (base, extra int) {
	switch n := symbol - endBlock - 1; {
	case n < 8:
		return n + 3, 0
	case n == 28:
		return maxMatch, 0
	default:
		extra = n/4 - 1
		return (4+n%4)<<extra + 3, extra
	}
}

func distance(symbol int) entry {
	if symbol >= numDist {
		return 0
	}
	base, extra := symbol+1, 0
	if symbol >= 4 {
		extra = symbol/2 - 1
		base = (2+symbol%2)<<extra + 1
	}
	return entry(base)<<16 | isCopy | entry(extra)<<4 //nolint:gosec // small
}

// fixed makes the tables of RFC 1951, 3.2.6.
func (z *Reader) fixed() {
	for i := range maxLit {
		switch {
		case i < 144:
			z.lens[i] = 8
		case i < 256:
			z.lens[i] = 9
		case i < 280:
			z.lens[i] = 7
		default:
			z.lens[i] = 8
		}
	}
	for i := range maxDist {
		z.lens[maxLit+i] = 5
	}
	build(z.lit[:], litBits, z.lens[:maxLit], literal)
	build(z.dist[:], distBits, z.lens[maxLit:], distance)
}

// dynamic reads the tables of a block (RFC 1951, 3.2.7).
func (z *Reader) dynamic() error {
	head, err := z.take(14)
	if err != nil {
		return err
	}
	lits, dists, codes := head&31+257, head>>5&31+1, head>>10+4
	if lits > numLit || dists > numDist {
		return ErrCorrupt
	}
	var lens [19]uint8
	order := [19]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	for _, at := range order[:codes] {
		n, err := z.take(3)
		if err != nil {
			return err
		}
		lens[at] = uint8(n) //nolint:gosec // 3 bits
	}
	var table [1 << 7]entry
	if !build(table[:], 7, lens[:], func(symbol int) entry { return entry(symbol)<<16 | isLiteral }) { //nolint:gosec // 19
		return ErrCorrupt
	}
	if err := z.codeLengths(&table, lits+dists); err != nil {
		return err
	}
	if !build(z.lit[:], litBits, z.lens[:lits], literal) || !build(z.dist[:], distBits, z.lens[lits:lits+dists], distance) {
		return ErrCorrupt
	}
	return nil
}

// codeLengths reads the lengths of the codes of both tables.
func (z *Reader) codeLengths(table *[1 << 7]entry, total int) error {
	for i := 0; i < total; {
		e, err := z.symbol(table[:], 7)
		if err != nil {
			return err
		}
		var value uint8
		times, extra := 1, uint(0)
		switch v := e >> 16; v {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			value, times, extra = z.lens[i-1], 3, 2
		case 17:
			times, extra = 3, 3
		case 18:
			times, extra = 11, 7
		default:
			value = uint8(v) //nolint:gosec // below 16
		}
		more, err := z.take(extra)
		if err != nil {
			return err
		}
		if times += more; i+times > total {
			return ErrCorrupt
		}
		for range times {
			z.lens[i] = value
			i++
		}
	}
	return nil
}
