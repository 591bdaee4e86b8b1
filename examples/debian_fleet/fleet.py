"""Real Debian hosts on one machine: real OpenSSH, real apt, real packages, in chroots.

Each host is a Debian root folder with its own sshd on an address of its own (127.0.1.N).
`debootstrap` runs once, into a cache; a host is a copy that shares /usr by hard links, so it takes
a fraction of a second and few megabytes. That is safe because dpkg replaces files and never writes
into them.

It needs root, Debian and a few tools: `DebianFleet.why_not()` says what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from temporal_patching.contrib.ssh import Ssh

from . import power
from .packages import NEW, OLD, PACKAGES, build_repositories

__all__ = ["NEW", "OLD", "PACKAGES", "DebianFleet", "DebianHost", "inventory_of", "ssh_to"]

_DEBOOTSTRAP = ("debootstrap", "--variant=minbase", "--include=openssh-server", "bookworm")

# What makes a debootstrap tree a small host that takes only our packages. Its text is part of the
# cache's name.
_TRIM = """\
set -e
update-rc.d -f ssh remove >/dev/null
usermod --shell /bin/sh root
rm -rf /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info /usr/share/zoneinfo
rm -rf /usr/share/bash-completion /usr/share/lintian /usr/lib/*/gconv
rm -rf /var/cache/apt/* /var/lib/apt/lists/* /var/log/* /etc/ssh/ssh_host_* /etc/apt/sources.list
"""

_REBOOT = """\
#!/bin/sh
# What powers this host boots it again when its sshd ends.
kill -TERM "$(cat /run/sshd.pid)"
"""

_ARCHIVE_KEYRING = "etc/apt/keyrings/fleet.gpg"


class DebianHost:
    """One host of a fleet, seen from outside of SSH: the truth that tests compare with.

    Attributes:
        name: Its name in the inventory, the SSH configuration and known_hosts' owner.
        cluster: The cluster it belongs to.
        root: Its root folder on this machine.
        address: Where its sshd and its services listen.
    """

    def __init__(self, name: str, cluster: str, root: Path, address: str, ports: tuple[int, int]):
        self.name = name
        self.cluster = cluster
        self.root = root
        self.address = address
        self.ssh_port, self.orders_port = ports

    def run(self, *argv: str, input: str = "") -> str:
        """Run a command in the host without SSH and answer its standard output.

        Args:
            argv: Program and arguments.
            input: What somebody types.

        Raises:
            subprocess.CalledProcessError: Its exit status was not 0.
        """
        return subprocess.run(
            ["chroot", self.root, *argv], input=input, check=True, capture_output=True, text=True
        ).stdout

    def version(self, package: str) -> str:
        """The installed version of a package, by `dpkg-query`."""
        return self.run("dpkg-query", "--show", "--showformat=${Version}", package)

    def package_status(self, package: str) -> str:
        """What dpkg calls it: `installed`, `half-configured` and so on."""
        return self.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", package)

    def dpkg_log(self) -> list[str]:
        """What dpkg did since the fleet began: `upgrade orders:all 1.0-1 2.0-1` and so on."""
        log = self.root / "var/log/dpkg.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split(" ", 2)[2] for line in lines]

    def orders(self) -> str:
        """What the orders daemon answers (`orders 1.0-1 serving`), "" if nobody answers."""
        try:
            with socket.create_connection((self.address, self.orders_port), timeout=5) as answer:
                return answer.makefile().readline().strip()
        except OSError:
            return ""

    def boot_id(self) -> str:
        """The id of the present boot, or "" while the host boots."""
        try:
            return (self.root / "run/boot_id").read_text().strip()
        except FileNotFoundError:
            return ""

    def break_orders(self) -> None:
        """From now on this host gets an `orders` 2.0-1 whose post-install script fails."""
        _offer(self.root, "repo-broken")

    def ask(self, *, insists: bool = False) -> None:
        """From now on this host gets a `search-index` 2.0-1 that asks questions.

        Args:
            insists: Without an answer its install script fails; it takes a default otherwise.
        """
        _offer(self.root, "repo-asking")
        (self.root / "etc/search-index.conf").write_text("words = ours\n")
        if insists:
            (self.root / "etc/default/search-index").write_text("INSISTS=yes\n")

    def slow_down(self, tenths: int) -> None:
        """Let `search-index` take this long to configure.

        Args:
            tenths: In tenths of a second; it is 5 otherwise.
        """
        (self.root / "etc/default/search-index").write_text(f"TENTHS={tenths}\n")

    def slow_stop(self, seconds: int) -> None:
        """Let the orders service take this long to stop."""
        with (self.root / "etc/default/orders").open("a") as defaults:
            defaults.write(f'if [ "$1" = stop ]; then sleep {seconds}; fi\n')

    def kill_dpkg(self) -> None:
        """Kill apt, dpkg and whatever they run, as an out-of-memory killer would."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                inside = os.readlink(f"/proc/{pid}/root") == str(self.root)
                command = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:  # it has ended
                continue
            if inside and any(name in command for name in ("apt-get", "dpkg", ".postinst")):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def __repr__(self) -> str:
        return f"DebianHost({self.name!r}, address={self.address!r})"


class DebianFleet:
    """Debian hosts that run from `with` to the end of its block, at version 1.0-1 of both packages.

    Nothing is left behind: not after the block, not after an exception, not after Ctrl-C. After a
        SIGKILL of this process its hosts stop by themselves, and the next fleet removes the
        folders.

    Attributes:
        hosts: The hosts by name.
        ssh_config: An OpenSSH client configuration; `ssh -F <it> eu-1-a` works by hand, too.
        known_hosts: The hosts' real keys.
        client_key: A private key that logs in as root.

    Example::

        with DebianFleet({"eu-1": 3, "us-1": 3}) as fleet:
            print(fleet.hosts["eu-1-a"].version("orders"))
    """

    def __init__(self, clusters: Mapping[str, int], *, boot_seconds: float = 0.3):
        """Describe a fleet; `with` starts it.

        Args:
            clusters: Number of hosts (1 to 26) by cluster name.
            boot_seconds: How long a reboot keeps a host away.
        """
        for cluster, count in clusters.items():
            if not 1 <= count <= 26:
                raise ValueError(f"{cluster!r} must have 1 to 26 hosts (got {count})")
        self._clusters = dict(clusters)
        self._boot_seconds = boot_seconds
        self._powered: list[subprocess.Popen[bytes]] = []
        self.hosts: dict[str, DebianHost] = {}

    @staticmethod
    def why_not() -> str:
        """Why no fleet can be made here, or "" if it can."""
        if os.geteuid() != 0:
            return "a Debian fleet needs root (chroot)"
        if not Path("/etc/debian_version").exists():
            return "a Debian fleet needs Debian"
        tools = {
            "debootstrap": "debootstrap",
            "gpg": "gnupg",
            "dpkg-deb": "dpkg",
            "cp": "coreutils",
        }
        missing = sorted({package for tool, package in tools.items() if not shutil.which(tool)})
        return f"a Debian fleet needs: apt-get install {' '.join(missing)}" if missing else ""

    def __enter__(self) -> DebianFleet:
        if reason := self.why_not():
            raise RuntimeError(reason)
        cache = _cache()
        base = _base(cache)
        self._folder, self._lock = _new_folder(cache / "fleets")
        try:
            self._build(base)
            self._power_on()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Power all hosts off and remove them. Doing it twice is no harm."""
        for process in self._powered:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._powered:
            process.wait()
        self._powered.clear()
        if not self._lock.closed:
            _remove(self._folder)
            self._lock.close()

    @property
    def folder(self) -> Path:
        """Where all of it is; a worker in another process gets along with this."""
        return self._folder

    @property
    def ssh_config(self) -> Path:
        """An OpenSSH client configuration with every host."""
        return self._folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        """The hosts' public keys."""
        return self._folder / "known_hosts"

    @property
    def client_key(self) -> Path:
        """The private key that the hosts accept."""
        return self._folder / "client_key"

    def ssh(self) -> Ssh:
        """How a worker reaches the hosts."""
        return ssh_to(self.folder)

    def cluster(self, name: str) -> list[DebianHost]:
        """The hosts of one cluster."""
        return [host for host in self.hosts.values() if host.cluster == name]

    def _build(self, base: Path) -> None:
        golden = self._folder / "golden"
        _copy(base, golden)
        for repository in build_repositories(self._folder, golden / _ARCHIVE_KEYRING):
            shutil.copytree(repository, golden / "srv" / repository.name)
        (golden / "root/.ssh").mkdir(mode=0o700)
        public = _generate_key(golden, "root/.ssh/id")
        (golden / "root/.ssh/id").rename(self.client_key)
        (golden / "root/.ssh/authorized_keys").write_text(f"{public}\n")
        _offer(golden, "repo")
        _chroot(golden, "apt-get", "-qq", "update")
        _chroot(golden, "apt-get", "-qq", "install", *(f"{package}={OLD}" for package in PACKAGES))
        (golden / "var/log/dpkg.log").unlink()

        ports = _free_ports(sum(self._clusters.values()))
        config: list[str] = []
        known: list[str] = []
        for cluster, count in self._clusters.items():
            for letter in "abcdefghijklmnopqrstuvwxyz"[:count]:
                name = f"{cluster}-{letter}"
                address = f"127.0.1.{len(self.hosts) + 1}"
                host = DebianHost(name, cluster, self._folder / name, address, ports)
                self.hosts[name] = host
                _copy(golden, host.root)
                public = _configure(host)
                known.append(f"[{address}]:{host.ssh_port} {public}")
                config.append(
                    f"Host {name}\n  HostName {address}\n  Port {host.ssh_port}\n  User root\n"
                    f"  IdentityFile {self.client_key}\n  IdentitiesOnly yes\n"
                    f"  UserKnownHostsFile {self.known_hosts}\n"
                )
        self.ssh_config.write_text("".join(config))
        self.known_hosts.write_text("\n".join(known) + "\n")
        inventory = {name: [host.name for host in self.cluster(name)] for name in self._clusters}
        (self._folder / "inventory.json").write_text(json.dumps(inventory))

    def _power_on(self) -> None:
        for host in self.hosts.values():
            argv = [sys.executable, power.__file__, str(host.root), str(self._boot_seconds)]
            self._powered.append(subprocess.Popen(argv, stdin=subprocess.PIPE))
        deadline = time.monotonic() + 30
        for host in self.hosts.values():
            while not (_answers(host.address, host.ssh_port) and host.orders()):
                if time.monotonic() > deadline:
                    log = host.root / "var/log/sshd.log"
                    text = log.read_text() if log.exists() else "no log"
                    raise RuntimeError(f"{host.name} does not boot within 30 s: {text}")
                time.sleep(0.02)


def ssh_to(folder: Path) -> Ssh:
    """How to reach the hosts of the fleet in this folder."""
    return Ssh(
        known_hosts=folder / "known_hosts",
        config=folder / "ssh_config",
        client_keys=[folder / "client_key"],
        # a chroot shares its kernel's boot id with this machine
        boot_id_command=("cat", "/run/boot_id"),
        reboot_command=("/sbin/reboot",),
    )


def inventory_of(folder: Path) -> dict[str, list[str]]:
    """Host names by cluster of the fleet in this folder."""
    inventory: dict[str, list[str]] = json.loads((folder / "inventory.json").read_text())
    return inventory


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "temporal-patching" / "debian-fleet"


def _base(cache: Path) -> Path:
    """The debootstrap tree that hosts are copied from; made if it is not there yet."""
    recipe = hashlib.sha256(" ".join((*_DEBOOTSTRAP, _TRIM, _REBOOT)).encode()).hexdigest()
    base = cache / f"base-{recipe[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "base.lock"):
        if not base.exists():
            unfinished = cache / "unfinished"
            _remove(unfinished)  # of a run that was killed
            print(f"debootstrap into {base} (once, about half a minute)", file=sys.stderr)
            made = subprocess.run(
                [*_DEBOOTSTRAP, str(unfinished)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if made.returncode:
                raise RuntimeError(f"debootstrap failed:\n{made.stdout[-4096:]}")
            _chroot(unfinished, "/bin/sh", "-c", _TRIM)
            reboot = unfinished / "sbin/reboot"
            reboot.write_text(_REBOOT)
            reboot.chmod(0o755)
            unfinished.rename(base)
    return base


def _new_folder(fleets: Path) -> tuple[Path, TextIO]:
    """A folder that is ours as long as its lock is held; folders whose owner died are removed."""
    fleets.mkdir(parents=True, exist_ok=True)
    with _locked(fleets / "lock"):
        for old in fleets.iterdir():
            if old.is_dir():
                with (old / "owner").open("w") as owner:
                    if _try_lock(owner):
                        _remove(old)
        folder = Path(tempfile.mkdtemp(dir=fleets)).resolve()
        folder.chmod(0o755)  # apt's unprivileged user reads below it
        mine = (folder / "owner").open("w")
        if not _try_lock(mine):
            raise RuntimeError(f"{folder} is somebody else's")
    return folder, mine


@contextmanager
def _locked(path: Path) -> Generator[None, None, None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    power.kill_processes(folder)
    # a debootstrap that was killed leaves its /proc and /sys mounted
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", mount], check=True)
    subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    rest = [str(item) for item in source.iterdir() if item.name != "usr"]
    subprocess.run(["cp", "-a", "--link", str(source / "usr"), str(target)], check=True)
    subprocess.run(["cp", "-a", *rest, str(target)], check=True)


def _offer(root: Path, repository: str) -> None:
    (root / "etc/apt/sources.list").write_text(
        f"deb [signed-by=/{_ARCHIVE_KEYRING}] file:/srv/{repository} ./\n"
    )


def _configure(host: DebianHost) -> str:
    (host.root / "etc/hostname").write_text(f"{host.name}\n")
    (host.root / "etc/default/orders").write_text(f"LISTEN={host.address}:{host.orders_port}\n")
    (host.root / "etc/ssh/sshd_config").write_text(
        f"ListenAddress {host.address}:{host.ssh_port}\n"
        "HostKey /etc/ssh/ssh_host_ed25519_key\n"
        "PermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\n"
        "UsePAM no\n"
        "UseDNS no\n"
        "MaxStartups 100\n"
        "PidFile /run/sshd.pid\n"
    )
    return _generate_key(host.root, "etc/ssh/ssh_host_ed25519_key")


def _generate_key(root: Path, path: str) -> str:
    """Make a key pair in a host and answer the public key."""
    _chroot(root, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", f"/{path}")
    return (root / f"{path}.pub").read_text().strip()


def _chroot(root: Path, *argv: str) -> None:
    done = subprocess.run(
        ["chroot", root, *argv],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed in {root}:\n{done.stdout[-4096:]}")


def _free_ports(hosts: int) -> tuple[int, int]:
    """Two ports that are free on all of the fleet's addresses: fleets may run beside each other."""
    for port in range(22022, 22922, 2):
        try:
            for number in range(1, hosts + 1):
                for one in (port, port + 1):
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind((f"127.0.1.{number}", one))
        except OSError:
            continue
        return port, port + 1
    raise RuntimeError("no free ports for a fleet on 127.0.1.*")


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
