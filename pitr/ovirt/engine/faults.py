# SPDX-License-Identifier: GPL-2.0-or-later
"""Translate the SDK's exceptions to pitr's errors.

The engine sends no error codes, so pitr recognizes a fault by its HTTP status and by words of its detail.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import ovirtsdk4
import pycurl

from pitr.errors import CheckpointGone, EngineBusy, EngineError, LoginError
from pitr.ovirt import certificates
from pitr.ovirt.engine.proxy import Proxy

#: libcurl's codes, which the SDK only passes on as text. With these, nothing reached the engine.
_UNSENT = frozenset({pycurl.E_COULDNT_RESOLVE_PROXY, pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_CONNECT})
#: After these, a retry can succeed.
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
_REACH_ADVICE = "Check the engine's URL, that the engine runs, and the network to it."

#: "Failed to read response: [(<pycurl.Curl object at 0x…>, 7, 'Failed to connect …')]" and
#: "Error while sending HTTP request: (7, 'Failed to connect …')".
_CURL_ERROR = re.compile(r"\((?:<[^>]*>, )?(\d+), (['\"])(.*?)\2\)", re.DOTALL)


class EngineFault(EngineError):
    """A failed call: an answer other than success, or no answer.

    `status` is the HTTP status, None without an answer; `detail` is the engine's text. `transient` means that a
    retry can succeed, `unsent` that the request had no effect.
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
        """Whether the entity does not exist (HTTP status 404, which the engine sends with an empty body)."""
        return self.status == 404

    @property
    def busy(self) -> bool:
        """Whether another operation uses the VM or disk, so that waiting can help."""
        return self.status == 409 and any(words in self.detail.lower() for words in _BUSY_WORDS)


_BUSY_WORDS = ("during a backup operation", "locked", "should be in up or down", "active image transfer")

_ADVICE_BY_WORDS = (
    ("during a backup operation", "Wait until the other backup of this VM ends, or finalize it."),
    ("locked", "Wait until the other operation on the disk ends."),
    ("should be in up or down", "Start the VM or shut it down, then retry."),
    ("previewing a snapshot", "Commit or undo the preview of the snapshot, then retry."),
    ("not active", "Activate the disks, or select other disks with --disk."),
    ("active image transfer", "Finalize or cancel the transfers of this backup first."),
)


def unreachable(
    where: str, reason: str, *, transient: bool = True, unsent: bool = False, proxy: Proxy | None = None
) -> EngineFault:
    """Return the fault for an engine at `where` (host and port) that did not answer, or not through its `proxy`."""
    through = "" if proxy is None else f" through the {proxy.words}"
    return EngineFault(
        f"no answer from the engine at {where}{through}: {reason}",
        _REACH_ADVICE if proxy is None else proxy.advice,
        transient=transient,
        unsent=unsent,
    )


def untrusted(
    where: str, reason: str, *, names: Sequence[str] = (), proxy: Proxy | None = None
) -> EngineFault:
    """Return the fault for an engine at `where` with an untrusted certificate, which is for `names`."""
    through = "" if proxy is None else f" through the {proxy.words}"
    others = f" (it is for {', '.join(names)})" if names else ""
    return EngineFault(
        f"the certificate of the engine at {where}{through} is not trusted: {reason}{others}",
        certificates.advice_for(reason, "engine"),
        unsent=True,
    )


def login_advice(username: str) -> str:
    """Return what to check after the engine has refused the login of a user."""
    if username.endswith("@internal"):
        return "Check the password. On an engine with Keycloak, the administrator is admin@ovirt@internalsso."
    if "@" not in username:
        return "Add the profile to the user name: admin@internal, or with Keycloak admin@ovirt@internalsso."
    return (
        "Check the user name and the password. The name has a profile, like admin@internal, or like "
        "admin@ovirt@internalsso on an engine with Keycloak."
    )


def from_sdk(
    error: Exception, *, what: str, where: str, status: int | None, proxy: Proxy | None = None
) -> EngineError:
    """Translate an SDK exception in the operation `what` ("reading VM x") on the engine at `where`.

    `status` is the HTTP status of the last answer, None without an answer. The caller passes it because the SDK
    loses it when it cannot read the body.
    """
    curl = _CURL_ERROR.search(str(error))
    if status is None and isinstance(error, ovirtsdk4.Error) and curl is not None:
        code, reason = int(curl.group(1)), curl.group(3)
        if code in _CERTIFICATE:
            return untrusted(where, reason, proxy=proxy)
        return unreachable(where, reason, transient=code in _TRANSIENT, unsent=code in _UNSENT, proxy=proxy)
    if isinstance(error, ovirtsdk4.Error) and error.code is not None:
        fault = error.fault
        detail = _plain(fault.detail if fault is not None else None)
        reason = _plain(fault.reason if fault is not None else None)
        return from_status(error.code, detail, reason=reason, what=what, where=where)
    if status is not None and status >= 400:
        return from_status(status, "", what=what, where=where)
    answer = f" (HTTP status {status})" if status is not None else ""
    return EngineFault(
        f"{what}: cannot read the answer of the engine at {where}{answer}: {_plain(str(error))}",
        "Check that the URL belongs to an oVirt engine.",
        status=status,
    )


def from_status(status: int, detail: str, *, what: str, where: str, reason: str = "") -> EngineError:
    """Return the error for an answer to `what` with the HTTP `status` and the engine's `detail`."""
    if status == 401:
        return LoginError(
            f"{what}: the engine at {where} rejects the login (HTTP status 401)",
            "Check the user name (with its profile, like admin@internal) and the password.",
        )
    text = detail if detail not in ("", "[]") else reason
    line = f"{what}: the engine at {where} answered {status}" + (f": {text}" if text else "")
    advice = ""
    if status == 403:
        advice = "Give the user the permission for this on the engine."
    elif status == 404:
        advice = "Check whether it still exists on the engine."
    elif status >= 500:
        advice = "If this persists, check the engine's log (engine.log)."
    for words, better in _ADVICE_BY_WORDS:
        if words in detail.lower():
            advice = better
            break
    return EngineFault(line, advice, status=status, detail=detail, transient=status >= 500 and status != 501)


def as_busy(fault: EngineFault) -> EngineBusy:
    """Return `fault`, which is a 409, as an EngineBusy."""
    return EngineBusy(fault.message, fault.advice)


_FOR_A_CHECKPOINT = re.compile(
    r"checkpoint|incremental_backup_disabled|incremental backup is (disabled|not enabled)|mixed|redefine",
    re.IGNORECASE,
)
_NOT_FOR_A_CHECKPOINT = re.compile(r"already exists|disk.*not exist|format is not applicable", re.IGNORECASE)


def as_checkpoint_gone(fault: EngineFault, checkpoint_id: str) -> CheckpointGone | None:
    """Return `fault` as CheckpointGone if it means that `checkpoint_id` is unusable, else None.

    For a lost chain the engine sends a 400 without a detail. So every 400 counts unless pitr knows another cause:
    a full backup is always safe, and shows the real cause if it fails too.
    """
    lost = fault.status == 400 and not _NOT_FOR_A_CHECKPOINT.search(fault.detail)
    if not lost and not (fault.status == 409 and _FOR_A_CHECKPOINT.search(fault.detail)):
        return None
    reason = fault.detail if fault.detail not in ("", "[]") else "the engine gives no reason"
    return CheckpointGone(
        f"checkpoint {checkpoint_id} cannot be used for an incremental backup: {reason}",
        "Take a full backup.",
    )


def is_about_changes(fault: EngineFault) -> bool:
    """Return whether a refused transfer misses the list of changes, and not the disk itself."""
    return (
        fault.status is not None and re.search(r"bitmap|checkpoint", fault.detail, re.IGNORECASE) is not None
    )


def _plain(text: str | None) -> str:
    """Return one line without control characters and without the list brackets of a detail; keep `[]`."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text or "").split())
    return line[1:-1].strip() if len(line) > 2 and line.startswith("[") and line.endswith("]") else line
