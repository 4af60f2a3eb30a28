package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// runtimeFlag, as the first argument, makes this program the runtime of our docker daemon.
const runtimeFlag = "-runtime"

// capabilities by their number (linux/capability.h).
var capabilities = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
	LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
	SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
	AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// actAsRuntime is the OCI runtime of our own daemon: runc, less the capabilities that this machine itself does not hold.
// A privileged container asks for every one, and runc refuses to start what it cannot give all of them.
func actAsRuntime(runc string, args []string) error {
	if path := specOf(args); path != "" {
		if err := boundFile(path); err != nil {
			return err
		}
	}
	return syscall.Exec(runc, append([]string{runc}, args...), os.Environ())
}

// specOf returns the file that says which capabilities a call of runc is to give; empty for calls that give none.
func specOf(args []string) string {
	bundle, process, command := ".", "", ""
	for i, a := range args {
		switch {
		case i > 0 && (args[i-1] == "--bundle" || args[i-1] == "-b"):
			bundle = a
		case i > 0 && (args[i-1] == "--process" || args[i-1] == "-p"):
			process = a
		case command == "" && slices.Contains([]string{"create", "run", "exec"}, a):
			command = a
		}
	}
	switch command {
	case "create", "run":
		return filepath.Join(bundle, "config.json")
	case "exec":
		return process
	}
	return ""
}

func boundFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	out, err := boundSpec(text, boundingSet(string(status)))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, out, 0o600)
}

// boundingSet reads CapBnd of /proc/PID/status.
func boundingSet(status string) (set uint64) {
	for line := range strings.Lines(status) {
		if hex, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			set, _ = strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return set
}

// boundSpec takes the capabilities outside of a set from an OCI specification, or from the process of one.
func boundSpec(text []byte, set uint64) ([]byte, error) {
	var spec map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // limits of memory are longer than a float64
	if err := dec.Decode(&spec); err != nil {
		return nil, err
	}
	process := spec
	if p, ok := spec["process"].(map[string]any); ok {
		process = p
	}
	caps, _ := process["capabilities"].(map[string]any)
	for kind, list := range caps {
		names, ok := list.([]any)
		if !ok {
			continue
		}
		caps[kind] = slices.DeleteFunc(names, func(name any) bool {
			s, _ := name.(string)
			i := slices.Index(capabilities, strings.TrimPrefix(s, "CAP_"))
			return i >= 0 && set>>i&1 == 0
		})
	}
	return json.Marshal(spec)
}
