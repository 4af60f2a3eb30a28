#!/bin/sh
# Installs programs, units and the user they run as: scripts/install.sh BIN [DESTDIR]. Without DESTDIR also what this machine has
# to be told: the user is made, /etc/trafficmonitor is the group's to read, and systemd reads its units again. It starts nothing
# and leaves every configuration as it is.
set -eu
cd "$(dirname "$0")/.."

bin=${1:?usage: scripts/install.sh BIN [DESTDIR]}
to=${2:-}

for program in controller sensor tmctl; do
	install -D -m 0755 "$bin/$program" "$to/usr/local/bin/$program"
done
for unit in deploy/systemd/*.service; do
	install -D -m 0644 "$unit" "$to/usr/local/lib/systemd/system/${unit##*/}"
done
install -D -m 0644 deploy/systemd/trafficmonitor.sysusers "$to/usr/local/lib/sysusers.d/trafficmonitor.conf"
for example in controller sensor; do
	install -D -m 0644 "deploy/$example.example.yaml" "$to/usr/local/share/doc/trafficmonitor/$example.example.yaml"
done
[ -z "$to" ] || exit 0

systemd-sysusers trafficmonitor.conf
install -d -m 0750 -o root -g trafficmonitor /etc/trafficmonitor
systemctl daemon-reload
