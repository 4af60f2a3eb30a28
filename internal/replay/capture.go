package replay

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/amooglesoft/trafficmonitor/internal/capture"
)

// Capture opens a capture file as a source. Packets of link types that are not read are left out and counted.
func Capture(path string) (*CaptureFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := capture.NewReader(f)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &CaptureFile{file: f, reader: r}, nil
}

// CaptureFile is a Source.
type CaptureFile struct {
	file   io.Closer
	reader *capture.Reader
	// Unreadable counts the packets left out.
	Unreadable int
}

// Next returns the next packet that can be read.
func (c *CaptureFile) Next() (Packet, error) {
	for {
		p, err := c.reader.Next()
		var unreadable *capture.UnreadableError
		if errors.As(err, &unreadable) {
			c.Unreadable++
			continue
		}
		return Packet{Time: p.Time, Data: p.Data, Wire: p.Wire}, err
	}
}

// Close closes the file.
func (c *CaptureFile) Close() error { return c.file.Close() }
