package speaker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// The journal is a text file that can be read with less:
//
//	trafficmonitor-speaker-journal 1
//	term 3 revision 1042
//	button {"by":"ann","reason":"fabric upgrade","at":"2026-01-02T03:04:05Z"}
//	route {"route":"destination 192.0.2.1/32 then blackhole","deadline":"…","created":"…","owners":["m-17"]}
//	end 1 crc32c 5f0c2d11
//
// The last line counts the routes and sums all octets before it. It is replaced as a whole: a reader finds the old one
// or the new one.

const journalHead = "trafficmonitor-speaker-journal 1"

// state is what the speaker remembers over a restart.
type state struct {
	term, revision uint64
	button         *Button
	items          []*item // sorted by text
}

type journalRoute struct {
	Route    string    `json:"route"`
	Deadline time.Time `json:"deadline"`
	Created  time.Time `json:"created"`
	Owners   []string  `json:"owners,omitempty"`
	Answers  []string  `json:"answers,omitempty"`
	Groups   []string  `json:"groups,omitempty"`
	Scope    []string  `json:"scope,omitempty"`
	Approved bool      `json:"approved,omitempty"`
	Manual   bool      `json:"manual,omitempty"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeJournal(s state) ([]byte, error) {
	errs := make([]error, len(s.items))
	inParallel(len(s.items), func(i int) { errs[i] = s.items[i].writeDown() })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	size := 256
	for _, it := range s.items {
		size += len(it.line)
	}
	b := make([]byte, 0, size)
	b = fmt.Appendf(b, "%s\nterm %d revision %d\n", journalHead, s.term, s.revision)
	if s.button != nil {
		line, err := journalLine("button", s.button)
		if err != nil {
			return nil, err
		}
		b = append(b, line...)
	}
	for _, it := range s.items {
		b = append(b, it.line...)
	}
	return fmt.Appendf(b, "end %d crc32c %08x\n", len(s.items), crc32.Checksum(b, castagnoli)), nil
}

// writeDown makes the item's line of the journal, once. The caller holds writing.
func (it *item) writeDown() (err error) {
	if it.line != nil {
		return nil
	}
	it.line, err = journalLine("route", journalRoute{it.text, it.Deadline.UTC(), it.Created.UTC(), it.Owners, it.Answers, it.Groups, it.Scope, it.Approved, it.Manual})
	if err != nil {
		return fmt.Errorf("route %q: %w", it.text, err)
	}
	return nil
}

func journalLine(word string, value any) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(word + " ")
	enc := json.NewEncoder(&b) // ends each value with a newline
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return nil, err
	}
	return bytes.Clone(b.Bytes()), nil
}

// decodeJournal reads a whole journal or nothing of it.
func decodeJournal(data []byte) (state, error) {
	var s state
	if len(data) == 0 || data[len(data)-1] != '\n' {
		return s, errors.New("it is cut short")
	}
	last := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
	body, end := data[:last], string(data[last:len(data)-1])
	var count int
	var sum uint32
	if n, err := fmt.Sscanf(end, "end %d crc32c %08x", &count, &sum); err != nil || n != 2 ||
		end != fmt.Sprintf("end %d crc32c %08x", count, sum) {
		return s, errors.New("its last line is not \"end COUNT crc32c SUM\": it is cut short")
	}
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return s, fmt.Errorf("its checksum is %08x and the last line says %08x", got, sum)
	}
	sc := bufio.NewScanner(bytes.NewReader(body))
	sc.Buffer(nil, 1<<20)
	if !sc.Scan() || sc.Text() != journalHead {
		return s, fmt.Errorf("its first line is %.60q and this version reads %q", sc.Text(), journalHead)
	}
	if !sc.Scan() {
		return s, errors.New("it has no term")
	}
	if n, err := fmt.Sscanf(sc.Text(), "term %d revision %d", &s.term, &s.revision); err != nil || n != 2 {
		return s, fmt.Errorf("line 2 is %.60q, not a term and a revision", sc.Text())
	}
	seen := map[string]bool{}
	for line := 3; sc.Scan(); line++ {
		word, value, _ := bytes.Cut(sc.Bytes(), []byte(" "))
		var err error
		switch string(word) {
		case "button":
			s.button = new(Button)
			err = json.Unmarshal(value, s.button)
		case "route":
			var it *item
			if it, err = decodeRoute(value); err != nil {
				break
			}
			if seen[it.id] {
				err = fmt.Errorf("%q stands twice", it.id)
			}
			seen[it.id] = true
			s.items = append(s.items, it)
		default:
			err = fmt.Errorf("unknown word %.20q", word)
		}
		if err != nil {
			return state{}, fmt.Errorf("line %d: %w", line, err)
		}
	}
	if err := sc.Err(); err != nil {
		return state{}, err
	}
	if len(s.items) != count {
		return state{}, fmt.Errorf("it holds %d routes and the last line says %d", len(s.items), count)
	}
	sortItems(s.items)
	return s, nil
}

func decodeRoute(value []byte) (*item, error) {
	var j journalRoute
	if err := json.Unmarshal(value, &j); err != nil {
		return nil, err
	}
	r, err := route.Parse(j.Route)
	if err != nil {
		return nil, err
	}
	if j.Deadline.IsZero() {
		return nil, fmt.Errorf("route %q has no deadline", j.Route)
	}
	return newItem(Desired{r, j.Deadline, j.Created, j.Owners, j.Answers, j.Groups, j.Scope, j.Approved, j.Manual}), nil
}

// journal is the file. It has one user, who holds the lock beside it.
type journal struct {
	path string
	// step, when set, is called before each step of save; an error ends save there as a crash would (tests).
	step func(name string) error
}

// load reads the journal. existed is false on the very first start. A journal that cannot be read is set aside under
// another name and reported in the error; the state is then empty and usable.
func (j *journal) load(now time.Time) (s state, existed bool, err error) {
	data, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, fmt.Errorf("read journal: %w", err)
	}
	s, err = decodeJournal(data)
	if err == nil {
		return s, true, nil
	}
	aside := j.path + ".corrupt-" + strconv.FormatInt(now.Unix(), 10)
	if rerr := os.Rename(j.path, aside); rerr != nil {
		return state{}, true, fmt.Errorf("journal %s cannot be read: %w; and cannot be set aside: %w", j.path, err, rerr)
	}
	return state{}, true, &corruptError{fmt.Errorf("journal %s cannot be read: %w; it was set aside as %s, nothing of it is announced, and the controller sends the set again", j.path, err, aside)}
}

// corruptError reports a journal that was set aside; the speaker goes on without it.
type corruptError struct{ err error }

func (e *corruptError) Error() string { return e.err.Error() }
func (e *corruptError) Unwrap() error { return e.err }

// save replaces the journal; when it returns nil the new one survives a power cut.
func (j *journal) save(s state) error {
	data, err := encodeJournal(s)
	if err != nil {
		return fmt.Errorf("encode journal: %w", err)
	}
	if err := j.replace(data); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

func (j *journal) replace(data []byte) (err error) {
	at := func(name string) error {
		if j.step == nil {
			return nil
		}
		return j.step(name)
	}
	tmp := j.path + ".new"
	if err := at("create"); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := at("write"); err != nil {
		_, _ = f.Write(data[:len(data)/2])
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := at("sync"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	err = f.Close()
	f = nil
	if err != nil {
		return err
	}
	if err := at("rename"); err != nil {
		return err
	}
	if err := os.Rename(tmp, j.path); err != nil {
		return err
	}
	if err := at("sync directory"); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(j.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// lockJournal makes sure that one speaker uses a journal.
func lockJournal(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("create the journal's directory: %w", err)
	}
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the journal's lock: %w", err)
	}
	if err := flock(f); err != nil {
		pid, _ := os.ReadFile(path + ".lock")
		f.Close()
		return nil, fmt.Errorf("journal %s is in use by another speaker (pid %s): stop that one, or give this one another journal and socket",
			path, strings.TrimSpace(string(pid)))
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return func() { funlock(f); f.Close() }, nil
}
