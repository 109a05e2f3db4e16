# SPDX-License-Identifier: GPL-2.0-or-later
"""Which texts on a screen or a console are failures."""

from __future__ import annotations

import pytest

from pitr.jobs.boot import signs


@pytest.mark.parametrize(
    "line",
    [
        "[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "No bootable device.",
        "grub rescue> ",
        "Missing operating system.",
        "BOOTMGR is missing",
        "Boot error",
        "BdsDxe: No bootable option or device was found.",
    ],
)
def test_a_failed_boot(line: str) -> None:
    assert signs.fatal(f"before\n{line}\nafter") == line.strip()


@pytest.mark.parametrize(
    "line",
    [
        "grub> ",
        "(initramfs) ",
        "dracut:/# ",
        "You are in emergency mode. After logging in, type",
        "Give root password for maintenance",
        "Shell> ",
        "boot: ",
    ],
)
def test_a_prompt_for_rescue(line: str) -> None:
    assert signs.rescue(f"before\n{line}") == line.strip()
    assert signs.fatal(f"before\n{line}") is None


def test_a_boot_loader_that_says_nothing() -> None:
    assert signs.only_bios("SeaBIOS\nBooting from Hard Disk...") == "Booting from Hard Disk..."
    assert signs.only_bios("SeaBIOS\nBooting from Hard Disk...\nGRUB loading.") is None


@pytest.mark.parametrize(
    "text",
    [
        "Booting from Hard Disk...\nGRUB loading.\nWelcome to GRUB!\nDebian GNU/Linux 12 web tty1\nweb login: ",
        "[  OK  ] Reached target rescue.target\nweb login:",
        "Shell> vmlinuz.efi console=tty0\nEFI stub: Loaded initrd",
        "(initramfs) mount\nBegin: Running /scripts/init-bottom ... done.",
        "You are in emergency mode.\n1\n2\n3\n4\n5\nweb login:",
        "Reboot error counters: 0\nsystemd[1]: boot: 3 s",
    ],
)
def test_a_guest_that_is_up(text: str) -> None:
    assert signs.fatal(text) is None
    assert signs.rescue(text) is None
