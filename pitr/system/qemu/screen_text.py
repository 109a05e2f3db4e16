# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the text on a guest's screen: that of a BIOS, of a boot loader and of a Linux console.

They use the characters of the VGA standard, 8 x 16 pixels, in a grid. In text mode a ninth column is empty. Text in
other fonts is not recognized.
"""

from __future__ import annotations

import base64
import zlib
from functools import cache
from typing import Final

import numpy as np

from pitr.system.qemu.picture import Picture

_FIRST: Final = 32
_HEIGHT: Final = 16
_WIDTH: Final = 8
#: The sizes of the screen in text mode, with nine columns for each character.
_TEXT_MODES: Final = ((720, 400), (360, 400))
_UNKNOWN: Final = "\ufffd"
#: The characters from the space to the tilde, 16 bytes each.
_FONT: Final = (
    "c-nPTy=vqz5H=}P8Iw}Qk}412>M(~MMubD8P_dP9Axx@$hkF~}8dRApudy+y_S&sNip9RsXe7%U?!&wI^EaA*JIn6Dg%F(c3@!(y"
    ")brjz>qX-at+}!1&M<behE8N>oAXlIlV_FIRXq*EP$MnNQtsS=ErREs!wrI$(L{+=s5C|1hFHn7<UqD$U+an|9+=Cod-F`Fz8}ZF"
    "SAy)Sh9g?fjrHbsiJS?>m^GCDLFi$Dgr6vM*LAl<uOx5_AiltPUvuyWQlh*27S89*F7u>d;-Oqj54y&pL5o)aYR)G5&y)G$gL$5("
    "j^aO7+S<h><oOLYz`#%4Lch*XVRsJw`qT=cKdC<T^4h%07q#rTl-K0^Y_0n4xr>D1D4yU1^8bX}0Q*DzxIn0;fuI-9uM!dC^?%nD"
    "#t9(*myc!sz4^ypC;i6y<dz@le`b>xQFk?7qAshP#q;a<bC<8Z^WS?Y!4p1?t5Si3#N8G~U5Uis+MnF;e)TK$rzDV`y>;)$>QJx;"
    "(sP0c)6D*d)xD1V>+>cz@qNwSrEGA-ChEq*0)+Yw5J?Z4J?hJ*SNey%CjAA}&U`RAjuiasT5bJ>y{yuHGL{t#p>XBE-Y)>zS9km3"
    "R%9I=BA@(*Cix}viMoj?hWx@SJ=JQLzi}H7&Oesr&5h&RA?kQM>BnyVp1TFuIEb(Sk^B8=Ssq@g!F^9@zY8e!=;|%vhmYeQ`FEPL"
    ";YTWFN=N$-lb2;e"
)
#: The characters of the Linux console that differ: each with its 16 bytes.
_OF_LINUX: Final = (
    "c-l>mEe^vl429nT3I+pqh-hFk=oQAM{S*}yd9(|N3U{ypA0cQ*sCtBGc2ZUSkn<^ee)a&dNJ=71P%eNhIqO?7aRsKSbA{H#O@CCF"
    "4kqqZq?Gc)CLSg@5=E{VPhe2mEu#and>ZHbuVfQFylb#y0FLLA4_*l-UPaGY*Q63U7O@tw@x2NwQhJ0cm`HE5F#>MG#Dwv;--<uH"
    "3`!C"
)


def text_on(picture: Picture) -> str:
    """Return the lines on the screen without the spaces at their ends; unknown characters are U+FFFD."""
    wide = 9 if (picture.width, picture.height) in _TEXT_MODES else _WIDTH
    rows, columns = picture.height // _HEIGHT, picture.width // wide
    if rows == 0 or columns == 0:
        return ""
    pixels = picture.pixels[: rows * _HEIGHT, : columns * wide].astype(np.uint32)
    colors = pixels[:, :, 0] << 16 | pixels[:, :, 1] << 8 | pixels[:, :, 2]
    cells = colors.reshape(rows, _HEIGHT, columns, wide).swapaxes(1, 2)[:, :, :, :_WIDTH]
    # Hardly a character has a pixel in its lower left corner.
    lit = cells != cells[:, :, -1:, :1]
    packed = np.packbits(lit, axis=3)[..., 0].astype(np.uint8)
    known = _characters()
    lines = [
        "".join(known.get(cell.tobytes(), _UNKNOWN) for cell in np.ascontiguousarray(row)) for row in packed
    ]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


@cache
def _characters() -> dict[bytes, str]:
    font = zlib.decompress(base64.b85decode(_FONT))
    characters = {font[at : at + _HEIGHT]: chr(_FIRST + at // _HEIGHT) for at in range(0, len(font), _HEIGHT)}
    linux = zlib.decompress(base64.b85decode(_OF_LINUX))
    for at in range(0, len(linux), 1 + _HEIGHT):
        characters[linux[at + 1 : at + 1 + _HEIGHT]] = chr(linux[at])
    # Only the cursor is in the cell: the two lines that it has in text mode, or in a console with pictures.
    for lines in ((13, 14), (14, 15)):
        cursor = bytearray(_HEIGHT)
        for line in lines:
            cursor[line] = 0xFF
        characters[bytes(cursor)] = " "
    return characters
