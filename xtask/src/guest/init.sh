#!/bin/sh
# PID 1 of a guest. The kernel's console is ttyS0; the command's output goes to ttyS1 as it is, byte for
# byte; what became of the command goes to ttyS2, where nothing else writes.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t debugfs debug /sys/kernel/debug
[ -d /sys/kernel/debug/tracing/events ] || mount -t tracefs trace /sys/kernel/tracing
mount -t tracefs trace /sys/kernel/tracing 2>/dev/null
mount -t bpf bpf /sys/fs/bpf
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
mkdir -p /run/netns /var
ln -s /run /var/run
hostname guest
ip link set lo up
ulimit -n 65536
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
cd /root
sh /etc/guest/command </dev/null >/dev/ttyS1 2>&1
status=$?
# Setting a terminal waits until all that was written has left.
stty -F /dev/ttyS1 raw
echo "ended $(cat /etc/guest/nonce) $status" >/dev/ttyS2
stty -F /dev/ttyS2 raw
poweroff -f
