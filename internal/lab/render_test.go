package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/render"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// What is rendered for BIRD, FRR and nftables is read by their own parsers, which change nothing.
func TestRenderedConfigurationParses(t *testing.T) {
	NeedRoot(t)
	NeedTool(t, "bird", "vtysh", "nft", "unshare")
	raw, err := os.ReadFile("../render/testdata/rules.txt")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	parsers := map[string][]string{"BIRD": {"bird", "-p", "-c"}, "FRR": {"vtysh", "-C", "-f"}, "nftables": {"unshare", "-n", "nft", "-c", "-f"}}
	run := func(what, text string) (string, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		argv := parsers[what]
		out, err := exec.CommandContext(t.Context(), FindTool(argv[0]), append(argv[1:], file)...).CombinedOutput()
		return string(out), err
	}
	read := map[string]int{}
	try := func(what, text string) {
		t.Helper()
		if out, err := run(what, text); err != nil {
			t.Errorf("%s does not read what was rendered: %v\n%s\n%s", what, err, out, text)
		}
		read[what]++
	}
	for what := range parsers { // else it would read anything
		if out, err := run(what, "ip route 192.0.2.1/33 blackhole\n"); err == nil {
			t.Errorf("%s read nonsense: %s", what, out)
		}
	}
	for text := range strings.Lines(string(raw)) {
		r, err := route.Parse(strings.TrimSpace(text))
		if err != nil {
			t.Fatal(err)
		}
		if out, err := render.As("bird", r); err == nil {
			try("BIRD", "router id 192.0.2.200;\nflow4 table flowtab4;\nflow6 table flowtab6;\nprotocol device {}\n"+out)
		}
		out, err := render.As("frr", r)
		switch {
		case err != nil:
		case r.IsBlackhole():
			try("FRR", out)
		default:
			try("nftables", out)
		}
	}
	if read["BIRD"] < 10 || read["FRR"] < 4 || read["nftables"] < 10 {
		t.Errorf("tried only %v", read)
	}
}
