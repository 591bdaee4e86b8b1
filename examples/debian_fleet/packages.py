"""The two packages that the example upgrades, and the signed apt repository that offers them.

`orders` is a service: a small daemon that answers on a TCP port with the version it was started
from, and refuses work in maintenance. `search-index` has a slow post-install script, as packages
that rebuild an index have. Each exists as 1.0-1 and 2.0-1; a second repository holds an `orders`
2.0-1 whose post-install script fails, a third one a `search-index` 2.0-1 that asks questions.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from email.utils import formatdate
from pathlib import Path

__all__ = ["NEW", "OLD", "PACKAGES", "build_repositories"]

PACKAGES = ("orders", "search-index")
OLD = "1.0-1"
NEW = "2.0-1"

_ORDERSD = """\
#!/usr/bin/perl
# Answers every connection with one line: version, and whether orders are taken.
use strict;
use warnings;
use IO::Socket::INET;

my $listen = $ENV{LISTEN} or die "LISTEN is not set\\n";
my $socket = IO::Socket::INET->new(LocalAddr => $listen, Listen => 16, ReuseAddr => 1)
    or die "cannot listen on $listen: $!\\n";
$SIG{PIPE} = 'IGNORE';
while (1) {
    my $client = $socket->accept or next;
    my $state = -e '/var/lib/orders/maintenance' ? 'maintenance' : 'serving';
    print $client "orders @VERSION@ $state\\n";
    close $client;
}
"""

_ORDERS_STATUS = """\
#!/usr/bin/perl
# Asks the running daemon, prints its line. Exit status 1: nobody answers.
use strict;
use warnings;
use IO::Socket::INET;

my $listen = $ENV{LISTEN} or die "LISTEN is not set\\n";
my $socket = IO::Socket::INET->new(PeerAddr => $listen, Timeout => 5)
    or do { print STDERR "orders: no answer on $listen: $!\\n"; exit 1 };
my $line = <$socket>;
defined $line or do { print STDERR "orders: connection closed\\n"; exit 1 };
print $line;
"""

_ORDERS_INIT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          orders
# Required-Start:    $remote_fs
# Required-Stop:     $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: takes orders
### END INIT INFO
set -eu
. /etc/default/orders
export LISTEN
pidfile=/run/orders.pid

case "$1" in
start)
    start-stop-daemon --start --oknodo --background --make-pidfile --pidfile "$pidfile" \\
        --startas /usr/lib/orders/ordersd
    ;;
stop)
    start-stop-daemon --stop --oknodo --pidfile "$pidfile" --remove-pidfile --retry TERM/5/KILL/5
    ;;
status)
    exec /usr/lib/orders/status
    ;;
*)
    echo "usage: $0 start|stop|status" >&2
    exit 2
    ;;
esac
"""

_ORDERS_POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    update-rc.d orders defaults >/dev/null
fi
"""

_BROKEN_POSTINST = """\
#!/bin/sh
echo "orders: cannot migrate the order book" >&2
exit 1
"""

_SEARCH_INDEX = """\
#!/bin/sh
echo "search-index @VERSION@"
"""

# The script notes each run that reached its end, so that a test sees how often it was run.
_SEARCH_INDEX_POSTINST = """\
#!/bin/sh
set -e
TENTHS=5
if [ -r /etc/default/search-index ]; then . /etc/default/search-index; fi
if [ "$1" = configure ]; then
    i=0
    while [ "$i" -lt "$TENTHS" ]; do
        echo "indexing $i/$TENTHS"
        sleep 0.1
        i=$((i + 1))
    done
    echo "@VERSION@" >>/var/lib/search-index/built
fi
"""

# The three ways in which a package asks: its script reads, a changed configuration file, debconf.
_ASKING = {
    "DEBIAN/preinst": """\
#!/bin/sh
set -e
if [ -r /etc/default/search-index ]; then . /etc/default/search-index; fi
echo "search-index: which colour?"
if ! read -r colour; then
    if [ "${INSISTS:-}" ]; then
        echo "search-index: nobody says which colour" >&2
        exit 1
    fi
    colour=none
fi
echo "colour $colour" >>/var/lib/search-index/answers
""",
    "DEBIAN/conffiles": "/etc/search-index.conf\n",
    "etc/search-index.conf": "words = 2\n",
    "DEBIAN/templates": """\
Template: search-index/depth
Type: string
Default: 3
Description: How deep?
""",
    "DEBIAN/config": """\
#!/bin/sh
set -e
. /usr/share/debconf/confmodule
db_input critical search-index/depth || true
db_go || true
""",
    "DEBIAN/postinst": """\
#!/bin/sh
set -e
. /usr/share/debconf/confmodule
db_get search-index/depth
echo "depth $RET" >>/var/lib/search-index/answers
""",
}


def build_repositories(folder: Path, archive_keyring: Path) -> tuple[Path, Path, Path]:
    """Build the packages and three signed flat repositories of them.

    The key is made for this one call and its private half is deleted before it returns.

    Args:
        folder: An existing folder to build in.
        archive_keyring: Where the public key goes, in the form that apt's `signed-by` takes.

    Returns:
        The good repository, one whose `orders` 2.0-1 cannot be configured, and one whose
        `search-index` 2.0-1 asks questions.
    """
    good, broken, asking = (folder / name for name in ("repo", "repo-broken", "repo-asking"))
    for repository in (good, broken, asking):
        repository.mkdir()
        for version in (OLD, NEW):
            fails = repository is broken and version == NEW
            asks = repository is asking and version == NEW
            _orders(folder / "build", repository, version, fails=fails)
            _search_index(folder / "build", repository, version, asks=asks)
    # gpg's agent listens on a socket in its home, whose path must be short
    with tempfile.TemporaryDirectory(prefix="fleet-gpg-") as home:
        env = {**os.environ, "GNUPGHOME": home, "LC_ALL": "C"}
        gpg = ["gpg", "--batch", "--quiet", "--passphrase", ""]
        try:
            _run(
                [*gpg, "--quick-generate-key", "Debian fleet example", "ed25519", "sign", "1d"],
                env=env,
            )
            for repository in (good, broken, asking):
                _index(repository)
                release, signed = repository / "Release", repository / "InRelease"
                _run([*gpg, "--clearsign", "--output", str(signed), str(release)], env=env)
            archive_keyring.parent.mkdir(parents=True, exist_ok=True)
            _run([*gpg, "--output", str(archive_keyring), "--export"], env=env)
        finally:
            subprocess.run(["gpgconf", "--kill", "all"], env=env, check=False)
    return good, broken, asking


def _orders(build: Path, repository: Path, version: str, *, fails: bool) -> None:
    _package(
        build / f"orders-{version}-{fails}",
        repository,
        name="orders",
        version=version,
        files={
            "usr/lib/orders/ordersd": _ORDERSD,
            "usr/lib/orders/status": _ORDERS_STATUS,
            "etc/init.d/orders": _ORDERS_INIT,
            "DEBIAN/postinst": _BROKEN_POSTINST if fails else _ORDERS_POSTINST,
        },
        state="var/lib/orders",
    )


def _search_index(build: Path, repository: Path, version: str, *, asks: bool) -> None:
    _package(
        build / f"search-index-{version}-{asks}",
        repository,
        name="search-index",
        version=version,
        files={
            "usr/bin/search-index": _SEARCH_INDEX,
            "DEBIAN/postinst": _SEARCH_INDEX_POSTINST,
            **(_ASKING if asks else {}),
        },
        state="var/lib/search-index",
    )


def _package(
    tree: Path, repository: Path, *, name: str, version: str, files: dict[str, str], state: str
) -> None:
    (tree / state).mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("@VERSION@", version))
        file.chmod(0o755)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\n"
        f"Version: {version}\n"
        "Architecture: all\n"
        "Maintainer: Debian fleet example <fleet@example.com>\n"
        f"Description: {name} of the Debian fleet example\n"
    )
    _run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(repository)])


def _index(repository: Path) -> None:
    paragraphs: list[str] = []
    for deb in sorted(repository.glob("*.deb")):
        data = deb.read_bytes()
        paragraphs.append(
            _run(["dpkg-deb", "--field", str(deb)])
            + f"Filename: ./{deb.name}\nSize: {len(data)}\n"
            + f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
    packages = "\n".join(paragraphs).encode()
    (repository / "Packages").write_bytes(packages)
    (repository / "Release").write_text(
        f"Origin: fleet\nLabel: fleet\nSuite: stable\nDate: {formatdate(usegmt=True)}\n"
        f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    )


def _run(argv: list[str], *, env: dict[str, str] | None = None) -> str:
    return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout
