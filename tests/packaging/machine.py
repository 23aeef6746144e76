"""A copy of the machine's own root (an overlay in memory) with namespaces of its own: what is
installed and run in it changes nothing of the machine."""

import os
import shlex
import subprocess
import sys

UPGRADE = "99.0"

# Arguments: a mount point, the folder that /srv is to be, and what is run.
ENTER = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
root=$1/root
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$2" "$root/srv"
ip link set lo up
"""
WITH_DEVICES = 'mount --rbind /dev "$root/dev"\n'
# systemd mounts and makes what it wants in /dev and /sys; the first argument more is its console.
WITH_SYSTEMD = """
mount -t tmpfs tmpfs "$root/dev"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for name in null zero full random urandom tty; do
    : > "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
: > "$root/dev/console"
mount --bind "$3" "$root/dev/console"
shift
mount -t sysfs sysfs "$root/sys"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd" "$root/sys/fs/cgroup/unified"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
fi
rm -f "$root"/etc/systemd/system/*.wants/* "$root"/lib/systemd/system/*.wants/*
"""
# Not chroot: in one the kernel gives nobody a user namespace (PrivateUsers=). Shared, because systemd
# has a child of its own mount the credentials.
LEAVE = """
shift 2
cd "$root"
mkdir before
pivot_root . before
umount -l /before
rmdir /before
mount --make-rshared /
exec "$@"
"""
NAMESPACES = ["--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup"]


def run(*command):
    """Its standard output and standard error."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False,
                          env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    assert done.returncode == 0, f"{shlex.join(words)}: {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


def build_packages(build, folder, content):
    """content/first.deb, and content/upgrade.deb: the same one with a later version."""
    run("cpack", "-G", "DEB", "--config", f"{build}/CPackConfig.cmake", "-B", str(folder / "cpack"))
    package, = (folder / "cpack").glob("*.deb")
    run("dpkg-deb", "-R", str(package), str(folder / "tree"))
    control = folder / "tree/DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join(f"Version: {UPGRADE}\n" if line.startswith("Version:") else line + "\n"
                               for line in lines))
    run("dpkg-deb", "-b", str(folder / "tree"), str(content / "upgrade.deb"))
    package.rename(content / "first.deb")


def enter(mount_point, content, *command, console=None):
    """Runs the command in the copy, as its process 1, with the folder `content` as /srv. With a
    console (the path of a terminal), systemd can be that. Returns its exit status."""
    script = ENTER + (WITH_SYSTEMD if console else WITH_DEVICES) + LEAVE
    first = [str(mount_point), str(content), *([console] if console else [])]
    return subprocess.call(["unshare", *NAMESPACES, "--fork", "--kill-child",
                            "sh", "-c", script, "sh", *first, *command])


def become_root():
    if os.geteuid() != 0:
        sys.exit(subprocess.call(["sudo", sys.executable, *sys.argv]))
