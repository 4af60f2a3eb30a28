package speaker

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// control sets what must be set before the first packet: MD5 (RFC 2385) and the hop limit (RFC 5082).
func (p Peer) control() func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return onFD(c, func(fd int) error {
			return errors.Join(p.setMD5(fd), p.setHops(fd))
		})
	}
}

func onFD(c syscall.RawConn, fn func(fd int) error) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = fn(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

func (p Peer) setMD5(fd int) error {
	if p.MD5 == "" {
		return nil
	}
	sig := unix.TCPMD5Sig{Keylen: uint16(len(p.MD5))}
	copy(sig.Key[:], p.MD5)
	a := p.Address
	if a.Is4() {
		sig.Addr.Family = unix.AF_INET
		// struct sockaddr_in: family, port, address
		v4 := a.As4()
		copy(sig.Addr.Data[2:], v4[:])
	} else {
		sig.Addr.Family = unix.AF_INET6
		// struct sockaddr_in6: family, port, flow label, address
		v6 := a.As16()
		copy(sig.Addr.Data[6:], v6[:])
	}
	if err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig); err != nil {
		return fmt.Errorf("set the MD5 password (TCP_MD5SIG): %w", err)
	}
	return nil
}

// setHops sends eBGP with a hop limit of 1, of MultihopTTL, or of 255 with TTL security, which also refuses what came
// over any router in between.
func (p Peer) setHops(fd int) error {
	hops, least := 0, 0
	switch {
	case p.TTLSecurity:
		hops, least = 255, 255
	case p.MultihopTTL > 0:
		hops = p.MultihopTTL
	case p.external:
		hops = 1
	}
	level, hopsOpt, leastOpt := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL
	if p.Address.Is6() {
		level, hopsOpt, leastOpt = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT
	}
	if hops > 0 {
		if err := unix.SetsockoptInt(fd, level, hopsOpt, hops); err != nil {
			return fmt.Errorf("set the hop limit to %d: %w", hops, err)
		}
	}
	if least > 0 {
		if err := unix.SetsockoptInt(fd, level, leastOpt, least); err != nil {
			return fmt.Errorf("set the least hop limit to %d (TTL security): %w", least, err)
		}
	}
	return nil
}

// listenBGP opens the listener for passive peers. The password of each is set before the first of them can connect.
func listenBGP(addr netip.AddrPort, peers []Peer) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: false}, Control: func(_, _ string, c syscall.RawConn) error {
		return onFD(c, func(fd int) error {
			var errs []error
			for _, p := range peers {
				if p.Address.Is6() == addr.Addr().Is6() {
					errs = append(errs, p.setMD5(fd))
					if p.TTLSecurity {
						// So that the SYN-ACK leaves with 255; the least hop limit is set on the accepted connection.
						q := p
						level, opt := unix.IPPROTO_IP, unix.IP_TTL
						if q.Address.Is6() {
							level, opt = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
						}
						errs = append(errs, unix.SetsockoptInt(fd, level, opt, 255))
					}
				}
			}
			return errors.Join(errs...)
		})
	}}
	network := "tcp4"
	if addr.Addr().Is6() {
		network = "tcp6"
	}
	return lc.Listen(context.Background(), network, addr.String())
}

// prepareAccepted sets what an accepted connection needs.
func (p Peer) prepareAccepted(c net.Conn) error {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	return onFD(raw, p.setHops)
}

// tcpTaken returns how many octets the other side of a TCP connection has acknowledged, and whether more wait to be sent or
// acknowledged.
func tcpTaken(c syscall.Conn) (acked uint64, waits bool, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	err = onFD(raw, func(fd int) error {
		i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return fmt.Errorf("read the state of the connection (TCP_INFO): %w", err)
		}
		acked, waits = i.Bytes_acked, i.Unacked > 0 || i.Notsent_bytes > 0
		return nil
	})
	return acked, waits, err
}

// ownSocket makes sure that the other end of a loopback connection is a socket of this process. Whoever else could
// connect there would speak BGP to a router with our address and password.
func ownSocket(c net.Conn) error {
	remote, local := c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort()
	inode, err := socketInode(remote, local)
	if err != nil {
		return err
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	want := "socket:[" + inode + "]"
	for _, fd := range fds {
		if link, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && link == want {
			return nil
		}
	}
	return fmt.Errorf("socket %s belongs to another process", inode)
}

// socketInode finds the socket bound to local and connected to remote in the kernel's table.
func socketInode(local, remote netip.AddrPort) (string, error) {
	f, err := os.Open("/proc/self/net/tcp")
	if err != nil {
		return "", err
	}
	defer f.Close()
	hex := func(ap netip.AddrPort) string {
		a := ap.Addr().Unmap().As4()
		return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(a[:]), ap.Port())
	}
	want := " " + hex(local) + " " + hex(remote) + " "
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if strings.Contains(sc.Text(), want) {
			if f := strings.Fields(sc.Text()); len(f) > 9 {
				return f[9], nil
			}
		}
	}
	return "", errors.Join(sc.Err(), fmt.Errorf("no socket %s in /proc/self/net/tcp", local))
}

// flock takes an exclusive lock that ends with the process, or fails at once.
func flock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// funlock gives the lock back. To close the file is not enough while a process forked from this one has not yet executed its
// program: it holds the lock too.
func funlock(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }

// listenerPID returns the process that listens on a unix socket, whether it answers or not.
func listenerPID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	err = onFD(raw, func(fd int) (err error) {
		cred, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// processEnd returns a channel that gets a value when the process is gone, be it our child or not.
func processEnd(pid int) (<-chan error, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	ended := make(chan error, 1)
	go func() { // ends with that process or with us
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				ended <- err
				return
			}
		}
	}()
	return ended, nil
}
