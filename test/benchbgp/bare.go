package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// bareOptions is what a bare GoBGP, this program with the argument "bare", is told: by the first line of its input.
type bareOptions struct {
	RouterID string
	Peers    map[string]int // port by address
}

// bareCommand is a further line. Routes are numbers of rule; they are made before the clock runs, with nothing checked.
type bareCommand struct {
	From, To int
	Withdraw bool
	Urgent   bool // instead: announce the urgent blackhole
	Prepare  bool // only make them
}

// bare is GoBGP with the routers as neighbours that does nothing but what it is told. It answers each line with one.
func bare() error {
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	var o bareOptions
	if err := in.Decode(&o); err != nil {
		return err
	}
	ctx := context.Background()
	quiet := log.NewDefaultLogger()
	quiet.SetLevel(log.FatalLevel)
	bgp := server.NewBgpServer(server.LoggerOption(quiet))
	go bgp.Serve()
	if err := bgp.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: ownASN, RouterId: o.RouterID, ListenPort: -1}}); err != nil {
		return err
	}
	for address, port := range o.Peers {
		p := &api.Peer{
			Conf:      &api.PeerConf{NeighborAddress: address, PeerAsn: routerASN},
			Transport: &api.Transport{RemotePort: uint32(port)},
			Timers:    &api.Timers{Config: &api.TimersConfig{HoldTime: 90, KeepaliveInterval: 30, ConnectRetry: 1}},
		}
		for _, safi := range []api.Family_Safi{api.Family_SAFI_UNICAST, api.Family_SAFI_FLOW_SPEC_UNICAST} {
			p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: &api.Family{Afi: api.Family_AFI_IP, Safi: safi}, Enabled: true}})
		}
		if err := bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: p}); err != nil {
			return err
		}
	}
	paths := map[int]*api.Path{}
	fmt.Println("ok")
	for {
		var c bareCommand
		switch err := in.Decode(&c); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read what to do: %w", err)
		}
		if c.Urgent {
			if err := send(ctx, bgp, path(urgentNLRI(), api.Family_SAFI_UNICAST), c.Withdraw); err != nil {
				return err
			}
		}
		for i := c.From; i < c.To; i++ {
			if paths[i] == nil {
				nlri, err := ruleNLRI(i)
				if err != nil {
					return err
				}
				paths[i] = path(nlri, api.Family_SAFI_FLOW_SPEC_UNICAST)
			}
			if c.Prepare {
				continue
			}
			if err := send(ctx, bgp, paths[i], c.Withdraw); err != nil {
				return err
			}
		}
		fmt.Println("ok")
	}
}

func send(ctx context.Context, bgp *server.BgpServer, p *api.Path, withdraw bool) error {
	if withdraw {
		return bgp.DeletePath(ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Path: p})
	}
	_, err := bgp.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: p})
	return err
}

func path(nlri []byte, safi api.Family_Safi) *api.Path {
	p := &api.Path{
		Family: &api.Family{Afi: api.Family_AFI_IP, Safi: safi}, NlriBinary: nlri,
		PattrsBinary: [][]byte{{0x40, 1, 1, 0}, {0x40, 3, 4, 0, 0, 0, 0}, {0xc0, 16, 8, 0x80, 6, 0, 0, 0, 0, 0, 0}},
	}
	if safi == api.Family_SAFI_UNICAST {
		p.PattrsBinary = [][]byte{{0x40, 1, 1, 0}, {0x40, 3, 4, 192, 0, 2, 1}, {0xc0, 8, 8, 0xff, 0xff, 2, 154, 0xff, 0xff, 0xff, 1}}
	}
	return p
}
