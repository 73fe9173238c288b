#!/bin/busybox sh
# The first program of the emulated machine (xtask/src/guest.rs).
b=/bin/busybox
$b mkdir -p /proc /sys /dev /root
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
$b mount -t ext4 /dev/vda /root
options=trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144
$b mount -t 9p -o $options host /root/host
$b mount -t 9p -o $options modules /root/lib/modules
for tree in proc sys dev; do $b mount --move /$tree /root/$tree; done
exec $b switch_root /root /bin/sh /host$($b sed 's/.*mote.run=\([^ ]*\).*/\1/' /root/proc/cmdline)
