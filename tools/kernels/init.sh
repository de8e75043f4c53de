#!/bin/busybox sh
# The guest's first process. Its root becomes a folder of the machine, read only, with all that is written kept
# in memory; then what the lane wants run is run from a shared folder. Nothing of the machine can be changed.
/bin/busybox mkdir -p /proc /sys /dev /lane /lower /upper /root /usr/sbin /usr/bin /sbin
/bin/busybox --install -s /bin
export PATH=/bin

die() {
    echo "init: $*" >/dev/console
    echo b >/proc/sysrq-trigger
    sleep 100
}
share() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,$3" "$1" "$2"; }

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/modules/$module" || die "the module $module does not load"
done </modules/order

share lane /lane access=any || die "no shared folder"
share root /lower ro,access=any,cache=loose || die "no root"
mount -t tmpfs -o mode=755,size=90% tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root || die "no overlay"

cd /root || die "no root"
mkdir -p proc sys dev run tmp "usr/lib/modules/$(uname -r)"
[ -e lib ] || ln -s usr/lib lib
mkdir -p "lib/modules/$(uname -r)"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
share modules "lib/modules/$(uname -r)" ro,access=any,cache=loose || die "no modules"
# /dev/net/tun is there before its driver is loaded, and everybody's; elsewhere udev sees to that.
while read -r driver node number; do
    if [ "$driver" = tun ]; then
        number=${number#c}
        mkdir -p "dev/${node%/*}"
        mknod -m 666 "dev/$node" c "${number%:*}" "${number#*:}"
    fi
done <"lib/modules/$(uname -r)/modules.devname"
while read -r tag path; do
    mkdir -p ".$path"
    share "$tag" ".$path" ro,access=any,cache=loose || die "no $path"
done </lane/shares

# Modules are loaded when the kernel asks for them, as on any machine, though the root may have no modprobe.
mkdir run/kernel
cp /bin/busybox run/kernel/busybox
# busybox takes one that is just being loaded, by somebody else, for loaded; the kernel asks again at once, and finds
# nothing. So that is waited for, but not forever: it may itself have asked for another.
cat >run/kernel/modprobe <<'EOF'
#!/run/kernel/busybox sh
/run/kernel/busybox modprobe "$@" 2>/dev/null
status=$?
tries=0
while /run/kernel/busybox grep -q ' Loading ' /proc/modules && [ $tries -lt 100 ]; do
    /run/kernel/busybox usleep 10000
    tries=$((tries + 1))
done
exit $status
EOF
chmod 755 run/kernel/modprobe
echo /run/kernel/modprobe >/proc/sys/kernel/modprobe

mkdir run/lane
mount --move /lane run/lane
hostname kernel-lane
ip link set lo up
umount /sys
umount /dev
umount /proc
exec switch_root /root /bin/sh /run/lane/start
