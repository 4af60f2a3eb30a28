package sensor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// loadState reads the directive kept by an earlier run; nil if there is none.
func loadState(path string) (*pb.Directive, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the last directive: %w", err)
	}
	d := &pb.Directive{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("read the last directive from %s: %w (it may be deleted: a controller sends it again)", path, err)
	}
	return d, nil
}

// saveState keeps a directive, so that whoever reads the file finds the old one or the new one.
func saveState(path string, d *pb.Directive) error {
	if path == "" {
		return nil
	}
	text, err := protojson.MarshalOptions{Multiline: true}.Marshal(d)
	if err != nil {
		return fmt.Errorf("write the directive: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keep the directive: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("keep the directive: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("keep the directive in %s: %w", path, err)
	}
	return nil
}
