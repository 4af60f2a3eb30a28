package tmctl

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// flood is a capture of UDP from port 53 to one host that nobody asked for.
func flood(packets int, gap time.Duration) []byte {
	var b bytes.Buffer
	order := binary.LittleEndian
	_ = binary.Write(&b, order, []uint32{0xa1b23c4d, 4<<16 | 2, 0, 0, 65535, 1})
	const payload = 400
	for i := range packets {
		at := time.Duration(i) * gap
		frame := make([]byte, 14+28+payload)
		frame[12] = 8
		ip := frame[14:]
		ip[0], ip[8], ip[9] = 0x45, 60, 17
		binary.BigEndian.PutUint16(ip[2:], 28+payload)
		copy(ip[12:], []byte{198, 51, byte(i >> 8), byte(i)})
		copy(ip[16:], []byte{203, 0, 113, 10})
		binary.BigEndian.PutUint16(ip[20:], 53)
		binary.BigEndian.PutUint16(ip[22:], uint16(1024+i%50_000))
		binary.BigEndian.PutUint16(ip[24:], 8+payload)
		_ = binary.Write(&b, order, []uint32{uint32(at / time.Second), uint32(at % time.Second), uint32(len(frame)), uint32(len(frame))})
		b.Write(frame)
	}
	return b.Bytes()
}

func replayRun(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, bad bytes.Buffer
	code = Run(context.Background(), append([]string{"replay"}, args...), Env{Stdout: &out, Stderr: &bad, Version: "test"})
	return out.String(), bad.String(), code
}

func TestReplayJSON(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a-flood.pcap", flood(20_000, 10*time.Microsecond))
	write("b-quiet.pcap", flood(200, time.Millisecond))
	write("c-notes.txt", []byte("no capture"))
	whole := flood(20_000, 10*time.Microsecond)
	write("d-broken.pcap", whole[:len(whole)-7])

	stdout, stderr, code := replayRun(t, dir, "--json")
	if code != ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want one for each capture:\n%s", len(lines), stdout)
	}
	got := make([]replayed, len(lines))
	for i, line := range lines {
		if err := json.Unmarshal([]byte(line), &got[i]); err != nil {
			t.Fatal(err)
		}
	}
	if f := got[0]; filepath.Base(f.File) != "a-flood.pcap" || f.Packets != 20_000 || f.DurationS != 0.19999 || len(f.Incidents) != 1 || f.Error != "" {
		t.Fatalf("%+v", f)
	}
	inc := got[0].Incidents[0]
	if inc.Target != "203.0.113.10/32" || inc.Direction != "inbound" || len(inc.Vectors) != 1 || inc.Vectors[0] != "dns-amplification" {
		t.Errorf("%+v", inc)
	}
	if inc.Coverage < 0.99 || inc.Collateral != 0 || inc.DecidedS > 0.032 || !strings.HasPrefix(inc.Action, "rate-limit") || !strings.Contains(inc.Signature, "source-port 53") {
		t.Errorf("%+v", inc)
	}
	if f := got[1]; f.Packets != 200 || len(f.Incidents) != 0 {
		t.Errorf("%+v", f)
	}
	if f := got[2]; f.Packets != 19_999 || len(f.Incidents) != 1 || !strings.Contains(f.Error, "packet 20000") {
		t.Errorf("%+v", f)
	}

	again, _, _ := replayRun(t, dir, "--json")
	if again != stdout {
		t.Error("the same captures gave another answer")
	}
}

// The fields are a promise to programs: docs/replay.md names each.
func TestReplayFieldsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/replay.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[replayed](), reflect.TypeFor[replayedFound](), reflect.TypeFor[replayedVector]()} {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(string(text), "`"+name+"`") && !strings.Contains(string(text), "`"+name+"[]`") {
				t.Errorf("docs/replay.md does not explain %s", name)
			}
		}
	}
}

func TestReplayLoop(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.pcap")
	if err := os.WriteFile(file, flood(100, 10*time.Microsecond), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := replayRun(t, file, "--loop", "3")
	if code != ExitOK || !strings.Contains(stdout, "300 packets in 0.065 s") || !strings.Contains(stdout, "played 3 times") {
		t.Errorf("%d: %s%s", code, stdout, stderr)
	}
}

func TestReplayRefuses(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "x.txt")
	if err := os.WriteFile(text, []byte("no capture"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no file":          {[]string{filepath.Join(dir, "none")}, ExitUsage, "no such file"},
		"no capture":       {[]string{text}, ExitFailed, "x.txt"},
		"no captures":      {[]string{dir}, ExitFailed, "none of 1 files is a capture"},
		"loop":             {[]string{text, "--loop", "0"}, ExitUsage, "--loop 0"},
		"targets":          {[]string{text, "--targets", "banana"}, ExitUsage, "banana"},
		"tunnel":           {[]string{text, "--decapsulate", "mpls"}, ExitUsage, "mpls"},
		"policy":           {[]string{text, "--policy", text}, ExitUsage, "x.txt"},
		"nothing":          {nil, ExitUsage, "exactly one"},
		"an unknown flag":  {[]string{text, "--targts", "x"}, ExitUsage, "targts"},
		"an output format": {[]string{text, "-o", "xml"}, ExitUsage, "xml"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, code := replayRun(t, tc.args...)
			if code != tc.code || !strings.Contains(stderr, tc.says) {
				t.Errorf("exit code %d, want %d; %q", code, tc.code, stderr)
			}
		})
	}
}
