package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/document"
)

// Community is a BGP community (RFC 1997): the AS in the upper half, the value in the lower.
type Community uint32

// String writes the community as AS:VALUE.
func (c Community) String() string { return fmt.Sprintf("%d:%d", uint32(c)>>16, uint32(c)&0xffff) }

func communityCodec() document.Codec[Community] {
	return document.Codec[Community]{
		Type: "community such as 64512:666",
		Parse: func(s string) (Community, error) {
			if strings.EqualFold(s, "blackhole") {
				return 0, document.Wrong("65535:666", "%q is always announced with a blackhole; written as a number it would be", s)
			}
			as, value, ok := strings.Cut(s, ":")
			a, err1 := strconv.ParseUint(as, 10, 16)
			v, err2 := strconv.ParseUint(value, 10, 16)
			if !ok || err1 != nil || err2 != nil {
				return 0, document.Wrong("", "%q is not a community such as 64512:666, two numbers from 0 to 65535", s)
			}
			return Community(a<<16 | v), nil
		},
		Format: Community.String,
	}
}
