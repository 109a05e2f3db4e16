# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of one sector: programs that a BIOS loads, which show or say something and then wait."""

from __future__ import annotations

SECTOR = 512
_COM1 = 0x3F8


def saying(text: str, *, first: bytes = b"", then: bytes = b"") -> bytes:
    """A boot sector that says the text on the first serial port; then it runs `then`, or waits for ever."""
    # mov dx, COM1; …; out dx, al
    return _boot_sector(first + b"\xba" + _COM1.to_bytes(2, "little"), b"\xee", text, then)


def showing(text: str) -> bytes:
    """A boot sector that shows the text on the screen by the BIOS, and waits for ever."""
    # mov bx, 7; …; mov ah, 0Eh; int 10h
    return _boot_sector(b"\xbb\x07\x00", b"\xb4\x0e\xcd\x10", text, b"")


#: Restart through the keyboard's controller: mov al, FEh; out 64h, al.
RESTART = b"\xb0\xfe\xe6\x64"
#: Turn the machine off, as an i440FX does after its BIOS: mov dx, 604h; mov ax, 2000h; out dx, ax.
POWER_OFF = b"\xba\x04\x06\xb8\x00\x20\xef"
#: Write the boot sector to the second sector: mov ax, 0301h; mov bx, 7C00h; mov cx, 0002h; mov dx, 0080h; int 13h.
WRITE_SECOND_SECTOR = b"\xb8\x01\x03\xbb\x00\x7c\xb9\x02\x00\xba\x80\x00\xcd\x13"
#: Read a sector behind the first MiB: mov ax, 0201h; mov bx, 8000h; mov cx, 0301h; mov dx, 0080h; int 13h.
READ_BEHIND_1_MIB = b"\xb8\x01\x02\xbb\x00\x80\xb9\x01\x03\xba\x80\x00\xcd\x13"


def _boot_sector(begin: bytes, put: bytes, text: str, then: bytes) -> bytes:
    encoded = text.encode("ascii") + b"\0"
    wait = b"\xfb\xf4\xeb\xfc"  # sti; hlt; jmp
    # xor ax, ax; mov ds, ax; mov es, ax; cld
    head = b"\x31\xc0\x8e\xd8\x8e\xc0\xfc" + begin
    # lodsb; test al, al; jz; …; jmp
    loop = b"\xac\x84\xc0\x74" + bytes([len(put) + 2]) + put + b"\xeb" + bytes([256 - len(put) - 7])
    at = 0x7C00 + len(head) + 3 + len(loop) + len(then) + len(wait)
    program = head + b"\xbe" + at.to_bytes(2, "little") + loop + then + wait + encoded
    assert len(program) <= 440, "the text is too long"
    return program.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def ovf(*disks: str, bios: str = "1", more: str = "") -> str:
    """A saved configuration; a disk is "id interface", and "boot" behind it if the VM boots from it."""
    described = [each.split() for each in disks]
    items = "".join(
        f'<Disk ovf:diskId="x" ovf:fileRef="{disk_id}/x" ovf:disk-interface="{interface}" '
        f'ovf:boot="{str(boot == ["boot"]).lower()}"/>'
        for disk_id, interface, *boot in described
    )
    return (
        '<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1/" '
        'xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f'<Section xsi:type="ovf:DiskSection_Type">{items}</Section>'
        f"<Content><Name>web</Name><BiosType>{bios}</BiosType>{more}</Content></ovf:Envelope>"
    )
