package journal

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A segment is a file that begins with segmentMagic and an octet with the version. Blocks follow. A block is a header and the
// columns of its records, see encoder, compressed as one (RFC 1951). Numbers of the header are lowest octet first:
//
//	 0  "tmJB"
//	 4  octets that follow the header
//	 8  octets of the records before they were compressed
//	12  number of records
//	16  time of the first record, in nanoseconds since 1970
//	24  time of the last one
//	32  CRC-32C of what follows the header
//	36  CRC-32C of the header up to here
//
// The header has a checksum of its own, so that a block whose records are damaged can be passed over, and so that the next
// one is found where a header is damaged.
const (
	segmentMagic = "tmjournal"
	version      = 1
	segmentHead  = len(segmentMagic) + 1
	blockMagic   = "tmJB"
	blockHead    = 40
	// maxRaw bounds a block before compression, and with it what a reader allocates.
	maxRaw = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	stored, raw, records uint32
	first, last          int64
	sum                  uint32
}

func segmentName(n uint64) string { return fmt.Sprintf("%020d.journal", n) }

// segmentNumber tells whether a file is a segment.
func segmentNumber(name string) (uint64, bool) {
	number, ok := strings.CutSuffix(name, ".journal")
	n, err := strconv.ParseUint(number, 10, 64)
	return n, ok && err == nil && len(number) == 20
}

func appendHeader(b []byte, h header) []byte {
	start := len(b)
	b = append(b, blockMagic...)
	b = binary.LittleEndian.AppendUint32(b, h.stored)
	b = binary.LittleEndian.AppendUint32(b, h.raw)
	b = binary.LittleEndian.AppendUint32(b, h.records)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.first))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.last))
	b = binary.LittleEndian.AppendUint32(b, h.sum)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func parseHeader(b []byte) (h header, ok bool) {
	if len(b) < blockHead || string(b[:4]) != blockMagic ||
		crc32.Checksum(b[:blockHead-4], castagnoli) != binary.LittleEndian.Uint32(b[blockHead-4:]) {
		return h, false
	}
	u := binary.LittleEndian
	return header{u.Uint32(b[4:]), u.Uint32(b[8:]), u.Uint32(b[12:]), int64(u.Uint64(b[16:])), int64(u.Uint64(b[24:])), u.Uint32(b[32:])}, true
}

var (
	errTorn   = errors.New("it ends within a block")
	errHeader = errors.New("the header of a block is damaged")
	errSum    = errors.New("the records of a block do not fit their checksum")
)

// nextBlock reads the block at the begin of b. With an error, length is how much of b is damaged; with errTorn it is all.
func nextBlock(b []byte) (h header, stored []byte, length int, err error) {
	h, ok := parseHeader(b)
	if ok && uint64(h.stored) <= uint64(len(b)-blockHead) {
		stored = b[blockHead : blockHead+int(h.stored)]
		if crc32.Checksum(stored, castagnoli) == h.sum {
			return h, stored, blockHead + int(h.stored), nil
		}
		// A write that was cut short may leave zeros behind it, and then nothing follows.
		if length = blockHead + int(h.stored); length < len(b) {
			if _, ok := parseHeader(b[length:]); ok {
				return h, nil, length, errSum
			}
		}
	}
	for at := 1; ; at++ {
		i := bytes.Index(b[min(at, len(b)):], []byte(blockMagic))
		if i < 0 {
			return h, nil, len(b), errTorn
		}
		if at += i; true {
			if _, ok := parseHeader(b[at:]); ok {
				return h, nil, at, errHeader
			}
		}
	}
}

func inflate(h header, stored []byte) ([]byte, error) {
	if h.raw > maxRaw {
		return nil, fmt.Errorf("a block of %d octets is too large", h.raw)
	}
	// What a block says of its size is believed only as far as it goes.
	var out bytes.Buffer
	out.Grow(int(min(int64(h.raw), 64*int64(len(stored))+512)))
	r := flate.NewReader(bytes.NewReader(stored))
	if _, err := io.Copy(&out, io.LimitReader(r, int64(h.raw)+1)); err != nil {
		return nil, err
	}
	if out.Len() != int(h.raw) {
		return nil, fmt.Errorf("a block has another length than the %d octets it says", h.raw)
	}
	return out.Bytes(), nil
}

// block gathers records until they are written as one.
type block struct {
	encoder
	header
	reports uint64 // of the records
	zip     *flate.Writer
	out     bytes.Buffer
}

func (k *block) add(r Record) {
	k.record(r)
	at := r.Time.UnixNano()
	if k.records == 0 {
		k.first, k.last = at, at
	}
	k.records++
	if r.Samples == nil {
		k.reports++
	}
	k.first, k.last = min(k.first, at), max(k.last, at)
}

// seal gives the block as it is written; it is good until the next.
func (k *block) seal() ([]byte, error) {
	columns, raw := k.columns(), 0
	for _, c := range columns {
		raw += len(c)
	}
	if raw > maxRaw {
		return nil, fmt.Errorf("a record of %d octets is too large", raw)
	}
	k.out.Reset()
	k.out.Write(make([]byte, blockHead))
	if k.zip == nil {
		k.zip, _ = flate.NewWriter(&k.out, flate.BestSpeed) // the level is right
	} else {
		k.zip.Reset(&k.out)
	}
	var err error
	for _, c := range columns {
		_, werr := k.zip.Write(c)
		err = errors.Join(err, werr)
	}
	if err := errors.Join(err, k.zip.Close()); err != nil {
		return nil, err
	}
	b := k.out.Bytes()
	k.stored, k.raw = uint32(len(b)-blockHead), uint32(raw)
	k.sum = crc32.Checksum(b[blockHead:], castagnoli)
	copy(b, appendHeader(nil, k.header))
	return b, nil
}

func (k *block) clear() {
	if k.size() > 4*blockBytes { // one large report must not stay
		k.encoder = encoder{}
	}
	k.reset()
	k.header, k.reports = header{}, 0
}

// whole tells how much of a segment is whole blocks, or damaged ones with whole ones behind them.
func whole(b []byte) (length int, records uint64, err error) {
	if len(b) < segmentHead {
		return 0, 0, nil
	}
	if err := checkHead(b); err != nil {
		return 0, 0, err
	}
	length = segmentHead
	for length < len(b) {
		h, _, n, err := nextBlock(b[length:])
		if errors.Is(err, errTorn) {
			break
		}
		if err == nil {
			records += uint64(h.records)
		}
		length += n
	}
	return length, records, nil
}

func checkHead(b []byte) error {
	if len(b) < segmentHead || string(b[:len(segmentMagic)]) != segmentMagic {
		return fmt.Errorf("it does not begin with %q: it is no segment of a journal", segmentMagic)
	}
	if v := b[len(segmentMagic)]; v != version {
		return fmt.Errorf("it has version %d, and this program reads %d", v, version)
	}
	return nil
}

// segments returns the numbers of the segments among names, in order.
func segments(names []string) (out []uint64) {
	for _, name := range names {
		if n, ok := segmentNumber(name); ok {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func nanos(n int64) time.Time { return time.Unix(0, n).UTC() }
