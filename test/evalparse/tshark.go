package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// fields are what tshark prints for a packet; all but the first four hold a value for each layer that has one.
var fields = []string{
	"frame.number", "frame.protocols", "frame.len", "frame.cap_len",
	"ip.proto", "ip.frag_offset", "ip.flags.mf",
	"ipv6.nxt", "ipv6.hopopts.nxt", "ipv6.routing.nxt", "ipv6.dstopts.nxt", "ipv6.fraghdr.nxt", "ipv6.fraghdr.offset",
	"ipv6.fraghdr.more", "ah.next_header",
	"tcp.srcport", "tcp.dstport", "tcp.flags", "udp.srcport", "udp.dstport", "icmp.type", "icmpv6.type",
	"ip.version", "ip.len", "ip.hdr_len", "ipv6.plen", "udp.length", "tcp.hdr_len",
	"_ws.expert.message",
}

// preferences switch off what goes beyond single packets.
var preferences = []string{
	"ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.desegment_tcp_streams:FALSE", "tcp.reassemble_out_of_order:FALSE",
	"tcp.analyze_sequence_numbers:FALSE", "ip.check_checksum:FALSE", "tcp.check_checksum:FALSE", "udp.check_checksum:FALSE",
	"ip.tso_support:FALSE", // of a length of 0 it would make the frame's
	"ip.use_geoip:FALSE", "ipv6.use_geoip:FALSE",
}

// dissection is what tshark says about a packet.
type dissection struct {
	number    int
	protocols string
	layers    []string
	values    map[string][]string
	expert    string
}

// value is field's for the nth layer that has it, and whether there is one.
func (d dissection) value(field string, n int) (int, bool) {
	list := d.values[field]
	if n >= len(list) {
		return 0, false
	}
	switch strings.ToLower(list[n]) {
	case "true":
		return 1, true
	case "false":
		return 0, true
	}
	v, err := strconv.ParseInt(list[n], 0, 64)
	return int(v), err == nil
}

// before counts the layers of that name before position at.
func (d dissection) before(at int, name string) (n int) {
	for _, l := range d.layers[:at] {
		if l == name {
			n++
		}
	}
	return n
}

// tshark is a running tshark.
type tshark struct {
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	stderr bytes.Buffer
	ended  bool
}

func dissect(ctx context.Context, name string) (*tshark, error) {
	args := []string{"-n", "-r", name, "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"}
	for _, p := range preferences {
		args = append(args, "-o", p)
	}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	t := &tshark{cmd: exec.CommandContext(ctx, "tshark", args...)}
	t.cmd.Stderr = &t.stderr
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t.lines = bufio.NewScanner(out)
	t.lines.Buffer(nil, 16<<20)
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start tshark: %w", err)
	}
	return t, nil
}

// next returns what it says of the next packet; false at the end.
func (t *tshark) next() (dissection, bool) {
	if !t.lines.Scan() {
		t.ended = true
		return dissection{}, false
	}
	columns := strings.Split(t.lines.Text(), "\t")
	d := dissection{values: map[string][]string{}}
	for i, f := range fields {
		if i >= len(columns) || columns[i] == "" {
			continue
		}
		if f == "_ws.expert.message" {
			d.expert = columns[i]
			continue
		}
		d.values[f] = strings.Split(columns[i], ",")
	}
	if list := d.values["frame.protocols"]; len(list) > 0 {
		d.protocols = list[0]
	}
	d.layers = strings.Split(d.protocols, ":")
	d.number, _ = d.value("frame.number", 0)
	return d, true
}

// failed is what it complained of when it ended early.
func (t *tshark) failed() string {
	_ = t.cmd.Wait()
	return strings.TrimSpace(t.stderr.String())
}

func (t *tshark) close() {
	if !t.ended {
		_ = t.cmd.Process.Kill()
	}
	_ = t.cmd.Wait()
}
