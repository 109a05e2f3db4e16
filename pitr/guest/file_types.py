# SPDX-License-Identifier: GPL-2.0-or-later
"""Judge by its first bytes whether a file holds what its name says.

The library puremagic knows the signatures of file types. pitr asks it only about extensions whose files nearly always
begin with a signature, and judges by itself whether a text is a text.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pitr.errors import ProgramMissing

#: So many bytes of a file decide.
HEAD: Final = 4096
#: Smaller files are not judged: too few bytes tell a text from noise.
SMALLEST: Final = 64

#: Extensions, and the types that puremagic may find in such files, by its own extensions.
_FAMILIES: Final = (
    # Office documents with a password are OLE containers.
    (
        "docx docm dotx xlsx xlsm xltx pptx pptm potx ppsx vsdx odt ods odp odg zip jar war ear apk epub whl nupkg xps",
        ".zip .xls",
    ),
    # Programs save web pages and other formats under these names.
    ("doc dot xls xlt ppt pps msi vsd pub", ".xls .zip .rtf"),
    ("pdf", ".pdf"),
    ("rtf", ".rtf .xls .zip"),
    ("jpg jpeg png gif webp", ".jpg .png .gif .webp"),
    ("tif tiff", ".tif"),
    ("bmp", ".bmp"),
    ("psd", ".psd"),
    ("mp4 m4v m4a mov 3gp", ".mp4 .m4a .mov .3gp"),
    ("mkv webm", ".webm"),
    ("avi wav", ".wav .avi"),
    ("wmv wma asf", ".wmv"),
    ("flac", ".flac"),
    ("ogg oga ogv opus", ".ogg"),
    ("gz tgz", ".gz"),
    ("bz2 tbz2", ".bz2"),
    ("xz txz", ".xz"),
    ("zst", ".zst"),
    ("7z", ".7z"),
    ("rar", ".rar"),
    ("cab", ".cab"),
    ("rpm", ".rpm"),
    ("deb", ".ar"),
    ("exe dll sys ocx scr cpl", ".exe"),
    ("class", ".class"),
    ("ttf", ".ttf .otf"),
    ("otf", ".otf .ttf"),
    ("woff", ".woff"),
    ("woff2", ".woff2"),
    ("mdb accdb", ".mdb .accdb"),
    ("pst ost", ".ost"),
    ("evtx", ".evtx"),
    ("chm", ".chm"),
    ("dwg", ".dwg"),
    ("vhdx", ".vhdx"),
    ("qcow2", ".qcow2"),
    ("sqlite sqlite3", ".db"),
)


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_SIGNED: Final = {
    extension: frozenset(types.split()) for names, types in _FAMILIES for extension in names.split()
}
#: Also fine under these names: texts, and boxes of video that puremagic does not know.
_OR_TEXT: Final = words(
    """
    doc xls ppt dot xlt
    """
)
_BOXES: Final = words(
    """
    mp4 m4v m4a mov 3gp
    """
)
_TEXTS: Final = words(
    """
    txt text log csv tsv md rst html htm xhtml xml xsl xsd json yml yaml toml ini conf cfg cnf properties inf reg
    css scss js ts jsx tsx php java kt c h cc cpp hpp cs go rs py rb pl pm sh bash bat cmd ps1 psm1 sql tex svg
    eml vcf ics srt service desktop
    """
)
#: Endings of copies, parts and signatures.
_COMPANIONS: Final = words(
    """
    asc sig sign sha1 sha256 sha512 md5 sum minisig torrent aria2 par2 meta info metadata part crdownload partial
    download tmp temp gpg pgp age enc idx index lock link lnk url bak old orig new manifest config mui delta zsync
    ima dist-info meta4 attest sigstore crc sfv nfo thumb properties map
    """
)
_UTF16_OR_32 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
#: Control characters that texts have: tab, line feeds, form feed, backspace and escape.
_IN_TEXTS = bytes((7, 8, 9, 10, 11, 12, 13, 26, 27))
_CONTROLS = bytes(set(range(32)) - set(_IN_TEXTS)) + b"\x7f"
#: A tenth of random bytes are control characters. A text may have some.
_MOST_CONTROLS = 0.03


def check_installed() -> None:
    """Raise ProgramMissing when the library is not installed."""
    _library()


def judged_extension(name: str) -> str | None:
    """Return the extension by which a file of this name is judged; None if its name says nothing.

    An unknown ending behind a known one does not count: `report.docx.x7kq` is judged as docx. (A text may have
    any ending behind its own: compressed, encrypted and split files are called so.)
    """
    parts = name.casefold().split(".")
    if len(parts) < 2 or (not parts[0] and len(parts) == 2):
        return None
    last = parts[-1]
    if last in _SIGNED or last in _TEXTS:
        return last
    if len(parts) > 2 and parts[-2] in _SIGNED and _is_strange(last):
        return parts[-2]
    return None


def fits(extension: str, head: bytes) -> bool:
    """Return whether a file that begins with `head` can be what its extension says, one of `judged_extension`."""
    if extension in _TEXTS:
        return is_text(head)
    found = _types(head)
    if found & _SIGNED[extension]:
        return True
    if extension in _OR_TEXT:
        return is_text(head)
    return extension in _BOXES and head[4:8] == b"ftyp"


def is_text(head: bytes) -> bool:
    """Return whether these bytes are text: UTF-8, UTF-16 or any of the older encodings."""
    if head.startswith(_UTF16_OR_32):
        return True
    # UTF-16 without a mark: every other byte of Latin text is zero.
    evens, odds = head[::2], head[1::2]
    if (
        evens
        and odds
        and max(evens.count(0) / len(evens), odds.count(0) / len(odds)) > 0.5 > head.count(0) / len(head)
    ):
        return True
    controls = len(head) - len(head.translate(None, _CONTROLS))
    return controls <= _MOST_CONTROLS * len(head)


def _is_strange(ending: str) -> bool:
    """Return whether this can be the ending that an attacker's program adds, and none of a copy, part or signature."""
    return 3 <= len(ending) <= 20 and not ending.isdigit() and ending not in _COMPANIONS


def _types(head: bytes) -> frozenset[str]:
    library = _library()
    try:
        return frozenset(found.extension for found in library.magic_string(head))
    except (library.PureError, ValueError):
        return frozenset()


@cache
def _library() -> Any:
    try:
        import puremagic  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ProgramMissing(
            f"checking the content of files needs a library that is not installed ({error.name})",
            "Install it: pip install 'pitr[files]'.",
        ) from None
    return puremagic
