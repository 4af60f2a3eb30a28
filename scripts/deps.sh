#!/bin/sh
# Installs the Debian packages of the named groups, once: scripts/deps.sh test demo bench kernels eval interop clab
# Quick and silent when all is there. It installs by name from the configured Debian mirror and nothing else; daemons that
# come with the packages are neither started nor enabled, for we start our own in namespaces.
set -eu

test='gcc libc6-dev linux-libc-dev clang-14 clang-format-14 llvm-14 libbpf-dev frr bird2 nftables iproute2 ethtool procps iputils-ping snmpd systemd prometheus'
demo='frr bird2 nftables iproute2 ethtool procps iputils-ping'
bench='fastnetmon gobgpd'
eval='tshark'
interop='frr bird2 gobgpd exabgp openbgpd iproute2 nftables'
kernels='qemu-system-x86 xz-utils'
clab='docker.io debootstrap'
services='frr bird fastnetmon gobgpd exabgp openbgpd snmpd prometheus docker'

[ $# -gt 0 ] || { echo 'usage: scripts/deps.sh GROUP... (test, demo, bench, kernels, eval, interop, clab)' >&2; exit 2; }

want=
for group in "$@"; do
	case $group in
	test) want="$want $test" ;;
	demo) want="$want $demo" ;;
	bench) want="$want $bench" ;;
	eval) want="$want $eval" ;;
	interop) want="$want $interop" ;;
	kernels) want="$want $kernels" ;;
	# A docker of another make is as good, and Debian's would take its place.
	clab) if command -v dockerd >/dev/null && ! dpkg-query -W docker.io >/dev/null 2>&1; then want="$want debootstrap"; else want="$want $clab"; fi ;;
	*) echo "deps: group $group is not known: use test, demo, bench, kernels, eval, interop or clab" >&2; exit 2 ;;
	esac
done

if ! command -v dpkg-query >/dev/null; then
	echo "deps: this is no Debian; tests that lack a tool skip themselves. Install by hand what corresponds to:$want" >&2
	[ "${CI:-}" != true ]
	exit
fi

missing=
for package in $(printf '%s\n' $want | sort -u); do
	state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
	case $state in ii*|hi*) ;; *) missing="$missing $package" ;; esac
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "deps: missing:$missing. Neither root nor sudo: have them installed with: apt-get install$missing" >&2
		[ "${CI:-}" != true ]
		exit
	fi
	as_root=sudo
fi
echo "deps: installing once:$missing" >&2

# A policy-rc.d that says 101 keeps Debian from starting daemons while they are installed.
policy=/usr/sbin/policy-rc.d
ours=
if [ ! -e $policy ]; then
	ours=1
	printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
	$as_root chmod 755 $policy
	trap '$as_root rm -f $policy' EXIT
	trap 'exit 130' INT TERM
fi

install() {
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends $missing
}
if ! log=$(install 2>&1); then
	# Most likely the package lists are missing or old.
	{ $as_root apt-get update -q && install; } >&2 || {
		echo "deps: could not install$missing; the output above says why" >&2
		exit 1
	}
fi

if [ -n "$ours" ] && [ -d /run/systemd/system ]; then
	for s in $services; do
		case " $missing " in *" $s"*) $as_root systemctl disable -q "$s" 2>/dev/null || true ;; esac
	done
	case " $missing " in *" docker.io "*) $as_root systemctl disable -q docker.socket containerd 2>/dev/null || true ;; esac
fi
