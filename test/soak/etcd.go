package main

import (
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

const etcdURL = "http://127.0.0.1:2379"

// serveEtcd is the etcd that both controllers share: this program, started again in the control machine's namespace.
func serveEtcd(dir string) {
	at := func(address string) []url.URL {
		u, err := url.Parse(address)
		if err != nil {
			panic(err) // a constant
		}
		return []url.URL{*u}
	}
	c := embed.NewConfig()
	c.Dir, c.LogLevel = dir, "warn"
	c.ListenClientUrls, c.AdvertiseClientUrls = at(etcdURL), at(etcdURL)
	c.ListenPeerUrls, c.AdvertisePeerUrls = at("http://127.0.0.1:2380"), at("http://127.0.0.1:2380")
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.UnsafeNoFsync = true // this is about memory, not about disks
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "1m"
	e, err := embed.StartEtcd(c)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	select {
	case <-stop:
		e.Close()
	case err := <-e.Err():
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
