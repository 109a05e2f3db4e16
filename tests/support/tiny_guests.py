# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of one sector: programs that a BIOS loads, which show or say something and then wait."""

from __future__ import annotations

SECTOR = 512
_COM1 = 0x3F8


def saying(text: str, *, then: bytes = b"") -> bytes:
    """A boot sector that says the text on the first serial port; then it runs `then`, or waits for ever."""
    # mov dx, COM1; mov si, text; loop: lodsb; test al, al; jz done; out dx, al; jmp loop
    return _boot_sector(bytes([0xBA]) + _COM1.to_bytes(2, "little"), b"\xee", text, then)


def showing(text: str, *, then: bytes = b"") -> bytes:
    """A boot sector that shows the text on the screen by the BIOS; then it runs `then`, or waits for ever."""
    # mov bx, 7; …; mov ah, 0Eh; int 10h
    return _boot_sector(b"\xbb\x07\x00", b"\xb4\x0e\xcd\x10", text, then)


#: Restart through the keyboard's controller: mov al, FEh; out 64h, al.
RESTART = b"\xb0\xfe\xe6\x64"
#: Read the disk's second sector, and wait: mov ax, 0201h; mov bx, 8000h; mov cx, 0002h; mov dx, 0080h; int 13h.
READ_SECOND_SECTOR = b"\xb8\x01\x02\xbb\x00\x80\xb9\x02\x00\xba\x80\x00\xcd\x13"


def _boot_sector(begin: bytes, put: bytes, text: str, then: bytes) -> bytes:
    encoded = text.encode("ascii") + b"\0"
    wait = b"\xfb\xf4\xeb\xfc"  # sti; hlt; jmp
    # xor ax, ax; mov ds, ax; mov es, ax; cld
    head = b"\x31\xc0\x8e\xd8\x8e\xc0\xfc" + begin
    loop = b"\xac\x84\xc0\x74" + bytes([len(put) + 2]) + put + b"\xeb" + bytes([256 - len(put) - 7])
    at = 0x7C00 + len(head) + 3 + len(loop) + len(then) + len(wait)
    program = head + b"\xbe" + at.to_bytes(2, "little") + loop + then + wait + encoded
    assert len(program) <= 440, "the text is too long"
    return program.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
