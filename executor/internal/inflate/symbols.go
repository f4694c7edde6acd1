package inflate

import "encoding/binary"

// symbols decodes a block until it ends or there is no more room.
func (z *Reader) symbols() error {
	for z.w <= outSize-outSlack {
		ended, err := z.fast()
		if err == nil && !ended && z.w <= outSize-outSlack {
			ended, err = z.slow()
		}
		if err != nil {
			return err
		}
		if ended {
			z.state = inMember
			return nil
		}
	}
	return nil
}

// fast decodes as long as there is so much input and room that neither need be
// looked at for a while. A turn begins with at least 56 bits: three literals, or
// a copy, which has at most 48.
func (z *Reader) fast() (ended bool, err error) {
	in, out := z.in[:z.end], &z.out
	pos, w, bits, n := z.pos, z.w, z.bits, z.n
	lit, dist := &z.lit, &z.dist
loop:
	for pos+16 <= len(in) && w <= outSize-outSlack {
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
		pos += int(63-n) >> 3 //nolint:gosec // below 8
		n |= 56
		e := lit[bits&(1<<litBits-1)]
		if e&isLiteral != 0 {
			bits >>= e & 15
			n -= uint(e & 15)
			out[w] = byte(e >> 16)
			w++
			e = lit[bits&(1<<litBits-1)]
			if e&isLiteral != 0 {
				bits >>= e & 15
				n -= uint(e & 15)
				out[w] = byte(e >> 16)
				w++
				e = lit[bits&(1<<litBits-1)]
				if e&isLiteral != 0 {
					bits >>= e & 15
					n -= uint(e & 15)
					out[w] = byte(e >> 16)
					w++
					continue
				}
			}
			bits |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
			pos += int(63-n) >> 3 //nolint:gosec // below 8
			n |= 56
		}
		if e&isTable != 0 {
			e = lit[(e>>16+entry(bits>>litBits)&(1<<(e>>4&15)-1))&(litSize-1)]
			if e&isLiteral != 0 {
				bits >>= e & 15
				n -= uint(e & 15)
				out[w] = byte(e >> 16)
				w++
				continue
			}
		}
		if e&isCopy == 0 {
			if ended = e&isEnd != 0; !ended {
				err = ErrCorrupt
				break loop
			}
			bits >>= e & 15
			n -= uint(e & 15)
			break loop
		}
		bits >>= e & 15
		extra := e >> 4 & 15
		length := int(e>>16) + int(bits&(1<<extra-1)) //nolint:gosec // at most 258
		bits >>= extra
		n -= uint(e&15 + extra)
		d := dist[bits&(1<<distBits-1)]
		if d&isTable != 0 {
			d = dist[(d>>16+entry(bits>>distBits)&(1<<(d>>4&15)-1))&(distSize-1)]
		}
		if d&isCopy == 0 {
			err = ErrCorrupt
			break loop
		}
		bits >>= d & 15
		extra = d >> 4 & 15
		back := int(d>>16) + int(bits&(1<<extra-1)) //nolint:gosec // at most 32768
		bits >>= extra
		n -= uint(d&15 + extra)
		from := w - back
		if from < z.low {
			err = ErrCorrupt
			break loop
		}
		repeat(out, w, from, length)
		w += length
	}
	z.pos, z.w, z.n = pos, w, n
	z.bits = bits & (1<<(n&63) - 1)
	return ended, err
}

// repeat copies within out, forwards: what it writes it may read. It may write up
// to 7 bytes more than asked for, which are overwritten by what follows.
func repeat(out *[outSize]byte, to, from, length int) {
	if to-from >= 8 {
		for i := 0; i < length; i += 8 {
			binary.LittleEndian.PutUint64(out[to+i:], binary.LittleEndian.Uint64(out[from+i:]))
		}
		return
	}
	for i := range length {
		out[to+i] = out[from+i]
	}
}

// symbol reads one code.
func (z *Reader) symbol(table []entry, bits uint) (entry, error) {
	for {
		e := table[z.bits&(1<<bits-1)]
		if e&isTable != 0 {
			e = table[e>>16+entry(z.bits>>bits)&(1<<(e>>4&15)-1)]
		}
		if length := uint(e & 15); length > 0 && length <= z.n {
			z.bits >>= length
			z.n -= length
			return e, nil
		}
		if z.n >= maxCode {
			return 0, ErrCorrupt
		}
		if err := z.more(); err != nil {
			return 0, err
		}
	}
}

// slow decodes one symbol near the end of the input.
func (z *Reader) slow() (ended bool, err error) {
	e, err := z.symbol(z.lit[:], litBits)
	switch {
	case err != nil:
		return false, err
	case e&isEnd != 0:
		return true, nil
	case e&isLiteral != 0:
		z.out[z.w] = byte(e >> 16)
		z.w++
		return false, nil
	}
	more, err := z.take(uint(e >> 4 & 15))
	if err != nil {
		return false, err
	}
	length := int(e>>16) + more
	d, err := z.symbol(z.dist[:], distBits)
	if err != nil {
		return false, err
	}
	if more, err = z.take(uint(d >> 4 & 15)); err != nil {
		return false, err
	}
	from := z.w - int(d>>16) - more
	if from < z.low {
		return false, ErrCorrupt
	}
	for i := range length {
		z.out[z.w+i] = z.out[from+i]
	}
	z.w += length
	return false, nil
}
