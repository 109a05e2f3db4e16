# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr demo`."""

from __future__ import annotations

from pitr.cli.options import Common, with_common


@with_common()
def demo(common: Common) -> None:
    """Show the whole story on a local oVirt, in a temporary folder: backups, a disaster, a restore, the proof.

    Needs qemu (Debian: qemu-utils, qemu-system-common, e2fsprogs) and the extra pitr[lab].
    """
    from pitr.lab.demo import run

    run(common.out)
