# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that programs of extortionists give: endings of encrypted files, and notes that ask for a ransom."""

from __future__ import annotations

import re
from typing import Final

from pitr.guest.file_types import words

#: Endings that nothing else uses.
_ENDINGS: Final = words(
    """
    wncry wncryt wcry wnry locky zepto aesir osiris cerber cerber2 cerber3 lockbit lockbit2 lockbit3 ryk ryuk
    conti sodinokibi darkside phobos eking makop dharma crysis akira akiranew babyk babuk avos avos2 avoslinux
    medusa medusalocker rhysida basta blackbasta clop ciop cl0p netwalker nemty ekans cryptolocker cryptowall
    crypz crinf r5a xrnt xtbl vvv djvus djvuu mallox fargo tohnichi devos elbie 8base faust deadbolt ech0raix
    esxiargs blackmatter lorenz nevada trigona _locked cactus cts1 bianlian qilin flocked embargo interlock
    ransomhub dragonforce_encrypted globeimposter gandcrab krab petya notpetya badrabbit teslacrypt enciphered
    ransomed ransomware wannacry hellokitty kraken_encrypted thanos ragnarlocker ragnar_locker blackcat alphv
    cryp1 cryptxxx nokoyawa snatch egregor mount_locker pysa doppeled grief vice_society vicesociety
    quantum_locked
    """
)
#: Words that also stand alone: they count only behind another ending, as in `report.docx.locked`.
_SECOND_ENDINGS: Final = words(
    """
    locked encrypted crypted crypt encrypt crypto13 cryptz lock64 play royal fog cuba monti maze ransom exx ezz
    micro zzzzz xxx_encrypted decrypt2017 payme paymrts decryptme
    """
)
#: `report.docx.id-1A2B3C4D.[mail@example.com].xyz`
_MAIL = re.compile(r"\.[\[{(][a-z0-9._+-]+@[a-z0-9.-]+\.[a-z]{2,}[\]})]\.[a-z0-9_-]{2,20}$")
#: The quantifiers are possessive: a guest must not make the search slow.
_NOTES: Final = re.compile(
    r"(?:"
    r"[_!@#+. -]*+(?:how|help)[_ -]*+(?:to|2|me)?[_ -]*+(?:decrypt|(?:recover|restore|unlock|back)(?=.*(?:file|data)))"
    r"[_ -]*+(?:your|my|all)?[_ -]*+(?:files?|data|them)?[_! -]*+"
    r"|[_!@#+. -]*+(?:decrypt|recover|restore|unlock)[_ -]*+(?:your|my|all|[a-z0-9]{4,12})?[_ -]*+files?[_! -]*+"
    r"|[_!@#+. -]*+(?:decrypt|recovery|unlock)[_ -]*+instructions?[_! -]*+|_help_instructions?"
    r"|[_!@#+. -]*+read[_ -]*+me[_ -]*+(?:for|to)[_ -]*+(?:decrypt|recover|restore|unlock)[_! -]*+"
    r"|[_!@#+. -]*+(?:decrypt|recover|restore|unlock)[_ -]*+(?:info|read[_ -]*+me)[_! -]*+"
    r"|[_!@#+. -]*+(?:all[_ -]*+)?your[_ -]*+files[_ -]*+(?:are|have[_ -]*+been|were)[_ -]*+"
    r"(?:encrypted|locked|stolen)[_! -]*+"
    r"|@please_read_me@|ryukreadme|conti_readme|akira_readme|rans0m_note|ransom[_ -]*+note|criticalbreachdetected"
    r"|!+read[_ -]*+me!+|_help_help_help.*"
    r")\.(?:txt|html?|hta|rtf|url|png|bmp|pdf)"
)


def is_ransom_name(name: str) -> bool:
    """Return whether a file of this name is probably encrypted by an attacker, or a note that asks for a ransom."""
    lower = name.casefold()
    base, dot, ending = lower.rpartition(".")
    if not dot or not base:
        return False
    if ending in _ENDINGS:
        return True
    if "." in base.lstrip(".") and (ending in _SECOND_ENDINGS or ("@" in lower and _MAIL.search(lower))):
        return True
    return _NOTES.fullmatch(lower) is not None
