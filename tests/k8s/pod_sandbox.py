"""What a container's security context leaves a process, without a container engine.

User 1000, no capabilities, none to be gained, and a root file system that cannot be written to.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

USER: Final = 1000
GROUP: Final = 100
_SETUP: Final = """
mount --make-rprivate /
case $2 in /root/*)  # only root may look in there, and here is Python
    mkdir -p "$1/python"
    mount --bind "$2" "$1/python"
    mount -t tmpfs none /root
    chmod 755 /root
    mkdir -p "$2"
    mount --bind "$1/python" "$2";;
esac
mount --bind "$1" "$1"
mount -o remount,bind,ro /
shift 2
exec setpriv --reuid=1000 --regid=100 --clear-groups --inh-caps=-all --bounding-set=-all \\
    --no-new-privs "$@"
"""


def sandbox(writable: Path) -> tuple[str, ...]:
    """Return the command that runs another one so, with `writable` the only place to write to."""
    base = ("unshare", "--mount", "sh", "-ec", _SETUP.strip(), "sandbox")
    return (*base, str(writable), sys.base_prefix)


def find_obstacle(writable: Path, repository: Path) -> str | None:
    """Say why this machine cannot run the sandbox, if it cannot."""
    if os.geteuid() != 0:
        return "only root may make a mount namespace"
    result = subprocess.run(
        [*sandbox(writable), sys.executable, "-c", "import deployments"],
        cwd=repository,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(repository), "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    return None if result.returncode == 0 else result.stderr.strip()[-300:]
