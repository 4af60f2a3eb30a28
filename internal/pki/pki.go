// Package pki reads the certificates that authenticate our processes and engineers to each other, follows their renewal
// without a restart, says who a peer is, and makes a small certificate authority for those who have none.
//
// A certificate's common name says who its holder is and its organisational unit says what the holder may do: the role.
package pki

import (
	"context"
	"crypto/x509"
	"slices"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// The roles, as they stand in the organisational unit of a certificate.
const (
	RoleSensor     = "sensor"     // streams what a rack sees; reads and changes nothing
	RoleController = "controller" // serves sensors and engineers
	RoleViewer     = "viewer"     // reads
	RoleOperator   = "operator"   // reads, announces, withdraws, freezes
	RoleApprover   = "approver"   // an operator who may also do what safety reserves for a person's approval
)

// Roles returns every role there is.
func Roles() []string {
	return []string{RoleSensor, RoleController, RoleViewer, RoleOperator, RoleApprover}
}

// PeerIdentity returns who is at the other end of a gRPC call and in which role, read from the verified certificate.
// ok is false where there is none (a unix socket, loopback without TLS). role is empty where the certificate names no
// role, or more than one.
func PeerIdentity(ctx context.Context) (name, role string, ok bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", "", false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return "", "", false
	}
	name, role = Identity(info.State.VerifiedChains[0][0])
	return name, role, true
}

// Identity returns the name and the role a certificate states; role is empty where it states none, or more than one.
func Identity(cert *x509.Certificate) (name, role string) {
	for _, unit := range cert.Subject.OrganizationalUnit {
		if !slices.Contains(Roles(), unit) {
			continue
		}
		if role != "" && role != unit {
			return cert.Subject.CommonName, ""
		}
		role = unit
	}
	return cert.Subject.CommonName, role
}
