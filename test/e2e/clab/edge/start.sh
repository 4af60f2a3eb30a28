#!/bin/sh
# Starts the machine's member of the etcd cluster and its controller, as soon as containerlab has given it its address.
until ip -4 addr show dev eth1 2>/dev/null | grep -q inet; do sleep 0.1; done
etcd --config-file /etc/trafficmonitor/etcd.conf.yml &
exec controller
