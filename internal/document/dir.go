package document

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ReadPath reads a file, or the files of a directory, for [ReadFiles]: of a directory those that end in .yaml or .yml, in order of their names, but
// not those that begin with a dot, for so do editors' and mounts' own, nor those that leave says are something else.
func ReadPath(dir string, leave func(name string) bool) (files []File, err error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		text, err := ReadFile(dir)
		return []File{{dir, text}}, err
	}
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if ext := filepath.Ext(name); ext != ".yaml" && ext != ".yml" || strings.HasPrefix(name, ".") || leave(name) {
			continue
		}
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			if err != nil {
				return nil, err
			}
			continue
		}
		if len(files) == maxFiles {
			return nil, fmt.Errorf("%s holds more than %d files", dir, maxFiles)
		}
		text, err := ReadFile(path)
		if err != nil {
			return nil, err
		}
		files = append(files, File{path, text})
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no file that ends in .yaml", dir)
	}
	return files, nil
}

// maxFiles bounds what is read of one directory.
const maxFiles = 100
