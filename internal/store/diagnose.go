package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
)

// diagnose says, for each endpoint of a shared etcd, what comes of connecting to it. etcd's client tells only that time
// ran out, whether the cable is cut or the certificate is of last year.
func (s *Store) diagnose(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	found := make(chan error, len(s.opts.Endpoints))
	for _, e := range s.opts.Endpoints {
		go func() { found <- knock(ctx, e, s.opts.TLS) }()
	}
	var errs []error
	for range s.opts.Endpoints {
		errs = append(errs, <-found)
	}
	return errors.Join(errs...)
}

// knock connects as the client does and waits for the first octet, for a server refuses a client's certificate only
// after the client believes to be connected.
func knock(ctx context.Context, endpoint string, config *tls.Config) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return fmt.Errorf("%s: %w", endpoint, err)
	}
	defer c.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end)
	}
	if u.Scheme == "https" {
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		config = config.Clone()
		config.NextProtos = []string{"h2"}
		if config.ServerName == "" {
			config.ServerName = u.Hostname()
		}
		c = tls.Client(c, config)
		// Either side may speak first in HTTP/2; a server waits for this.
		if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
			return fmt.Errorf("%s: %w", endpoint, err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return fmt.Errorf("%s: %w", endpoint, err)
		}
	}
	return nil
}

// why adds to the error of a request what diagnose finds, where the request only ran out of time.
func (s *Store) why(err error) error {
	if s.embedded != nil || !errors.Is(err, context.DeadlineExceeded) && !isDeadline(err) {
		return err
	}
	if found := s.diagnose(s.ctx); found != nil {
		return found
	}
	return fmt.Errorf("%w, though every endpoint takes connections: does the cluster have a quorum?", err)
}
