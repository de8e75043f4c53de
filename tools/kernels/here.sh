#!/bin/sh
# As root, run the lane's script in a root folder on this machine's own kernel. A chroot would not do: the kernel
# refuses user namespaces inside one. So the folder becomes the root of a mount namespace, which ends with the script.
#
#     here.sh ROOT LANE CHECKOUT
set -eu
if [ "${HERE_MOUNTED:-}" != yes ]; then
    HERE_MOUNTED=yes exec unshare --mount --propagation private "$0" "$@"
fi
unset HERE_MOUNTED
root=$1 lane=$2 checkout=$3

mount --bind "$root" "$root"
# As they are, with what is mounted below: the kernel wants to see a whole /proc and /sys before it mounts others.
for folder in proc sys dev; do
    mount --rbind "/$folder" "$root/$folder"
done
for folder in run tmp; do
    mount -t tmpfs -o mode=1755 tmpfs "$root/$folder"
done
chmod 1777 "$root/tmp"
mkdir -p "$root/run/lane" "$root/checkout"
mount --bind "$lane" "$root/run/lane"
mount --bind "$checkout" "$root/checkout"
mount -o remount,bind,ro "$root/checkout"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec /bin/sh /run/lane/script
