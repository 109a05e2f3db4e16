# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine's failures mean: from the SDK's exceptions to one clear line.

No error code is on the wire: a fault is told by its HTTP status and by the words of its detail.
"""

from __future__ import annotations

import re

import ovirtsdk4
import pycurl

from pitr.errors import CheckpointGone, EngineBusy, EngineError, LoginError

#: libcurl's codes (an error is handed on by the SDK as text only). Nothing reached the engine in these…
_UNSENT = frozenset({pycurl.E_COULDNT_RESOLVE_PROXY, pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_CONNECT})
#: …and these are a matter of the connection's luck: another try may succeed.
_TRANSIENT = _UNSENT | {
    pycurl.E_PARTIAL_FILE,
    pycurl.E_OPERATION_TIMEDOUT,
    pycurl.E_SSL_CONNECT_ERROR,
    pycurl.E_GOT_NOTHING,
    pycurl.E_SEND_ERROR,
    pycurl.E_RECV_ERROR,
}
_CERTIFICATE = frozenset(
    {pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_ISSUER_ERROR}
)
_CERTIFICATE_ADVICE = (
    "Give the engine's CA with --cafile, PITR_CAFILE or the key 'cafile'; the engine serves it at "
    "/ovirt-engine/services/pki-resource?resource=ca-certificate&format=X509-PEM-CA"
)
_REACH_ADVICE = "Check the engine's URL, that the engine runs, and the network between."

#: "Failed to read response: [(<pycurl.Curl object at 0x…>, 7, 'Failed to connect …')]" and
#: "Error while sending HTTP request: (7, 'Failed to connect …')".
_CURL_ERROR = re.compile(r"\((?:<[^>]*>, )?(\d+), (['\"])(.*?)\2\)", re.DOTALL)


class EngineFault(EngineError):
    """An answer that is no success, or no answer at all.

    `status` is the HTTP status, None when there was no answer; `detail` is the engine's text.
    `transient`: another try may succeed. `unsent`: the request surely had no effect.
    """

    def __init__(
        self,
        message: str,
        advice: str = "",
        *,
        status: int | None = None,
        detail: str = "",
        transient: bool = False,
        unsent: bool = False,
    ) -> None:
        super().__init__(message, advice)
        self.status = status
        self.detail = detail
        self.transient = transient
        self.unsent = unsent

    @property
    def missing(self) -> bool:
        """Whether the entity does not exist (404; the engine sends it with an empty body)."""
        return self.status == 404

    @property
    def busy(self) -> bool:
        """Whether something else works on the VM or disk, so that waiting may help."""
        return self.status == 409 and any(words in self.detail.lower() for words in _BUSY_WORDS)


_BUSY_WORDS = ("during a backup operation", "locked", "should be in up or down", "active image transfer")

_ADVICE_BY_WORDS = (
    ("during a backup operation", "Wait until the other backup of this VM has ended, or finalize it."),
    ("locked", "Wait until the other operation on the disk has ended."),
    ("should be in up or down", "Start the VM or shut it down, then try again."),
    ("previewing a snapshot", "Commit or undo the snapshot's preview, then try again."),
    ("not active", "Activate the disks, or leave them out with --disk."),
    ("active image transfer", "Finalize or cancel the transfers of this backup first."),
)


def unreachable(where: str, reason: str, *, transient: bool = True, unsent: bool = False) -> EngineFault:
    """Return the fault for an engine at `where` (host and port) that gave no answer."""
    return EngineFault(
        f"no answer from the engine at {where}: {reason}", _REACH_ADVICE, transient=transient, unsent=unsent
    )


def untrusted(where: str, reason: str) -> EngineFault:
    """Return the fault for an engine at `where` whose certificate is not trusted."""
    return EngineFault(
        f"the certificate of the engine at {where} is not trusted: {reason}", _CERTIFICATE_ADVICE, unsent=True
    )


def from_sdk(error: Exception, *, what: str, where: str, status: int | None) -> EngineError:
    """Return the failure of `what` ("reading VM x") at the engine `where`, for an exception of the SDK.

    `status` is the HTTP status of the last answer, None when there was none: the SDK loses it where an
    answer's body is not what it expects.
    """
    curl = _CURL_ERROR.search(str(error))
    if status is None and isinstance(error, ovirtsdk4.Error) and curl is not None:
        code, reason = int(curl.group(1)), curl.group(3)
        if code in _CERTIFICATE:
            return untrusted(where, reason)
        return unreachable(where, reason, transient=code in _TRANSIENT, unsent=code in _UNSENT)
    if isinstance(error, ovirtsdk4.Error) and error.code is not None:
        fault = error.fault
        detail = _plain(fault.detail if fault is not None else None)
        reason = _plain(fault.reason if fault is not None else None)
        return from_status(error.code, detail, reason=reason, what=what, where=where)
    if status is not None and status >= 400:
        return from_status(status, "", what=what, where=where)
    answer = f" (HTTP status {status})" if status is not None else ""
    return EngineFault(
        f"{what}: the answer of the engine at {where} cannot be understood{answer}: {_plain(str(error))}",
        "Check that the URL is that of an oVirt engine.",
        status=status,
    )


def from_status(status: int, detail: str, *, what: str, where: str, reason: str = "") -> EngineError:
    """Return the failure for an answer with HTTP `status` and the engine's `detail` to `what`."""
    if status == 401:
        return LoginError(
            f"{what}: the engine at {where} does not accept the login (HTTP status 401)",
            "Check the user name (with its profile, as admin@internal) and the password.",
        )
    said = detail if detail not in ("", "[]") else reason
    line = f"{what}: the engine at {where} answered {status}" + (f": {said}" if said else "")
    advice = ""
    if status == 403:
        advice = "The user lacks a permission for this on the engine."
    elif status == 404:
        advice = "It does not exist on the engine (any more)."
    elif status >= 500:
        advice = "Look into the engine's log (engine.log) if this stays."
    for words, text in _ADVICE_BY_WORDS:
        if words in detail.lower():
            advice = text
            break
    return EngineFault(line, advice, status=status, detail=detail, transient=status >= 500 and status != 501)


def as_busy(fault: EngineFault) -> EngineBusy:
    """Return `fault`, a 409, as the type that says so."""
    return EngineBusy(fault.message, fault.advice)


_FOR_A_CHECKPOINT = re.compile(
    r"checkpoint|incremental_backup_disabled|incremental backup is (disabled|not enabled)|mixed|redefine",
    re.IGNORECASE,
)
_NOT_FOR_A_CHECKPOINT = re.compile(r"already exists|disk.*not exist|format is not applicable", re.IGNORECASE)


def as_checkpoint_gone(fault: EngineFault, checkpoint_id: str) -> CheckpointGone | None:
    """Return why no incremental backup from `checkpoint_id` can be taken, None if `fault` is another matter.

    A 400 without a detail is what a lost chain looks like, so each 400 that is not known to be about
    something else counts: a full backup is right in any case, and names the real reason if it fails too.
    """
    lost = fault.status == 400 and not _NOT_FOR_A_CHECKPOINT.search(fault.detail)
    if not lost and not (fault.status == 409 and _FOR_A_CHECKPOINT.search(fault.detail)):
        return None
    said = fault.detail if fault.detail not in ("", "[]") else "the engine gives no reason"
    return CheckpointGone(
        f"checkpoint {checkpoint_id} cannot be used for an incremental backup: {said}", "Take a full backup."
    )


def _plain(text: str | None) -> str:
    """One line without the list brackets of a detail; control characters are dropped, `[]` stays."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text or "").split())
    return line[1:-1].strip() if len(line) > 2 and line.startswith("[") and line.endswith("]") else line
