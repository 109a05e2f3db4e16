# SPDX-License-Identifier: GPL-2.0-or-later
"""Login and logout: tokens for a user name and a password."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping

TOKEN_LIFETIME_S = 30 * 60


class Tokens:
    """The valid tokens. Several threads can use it."""

    def __init__(self, username: str, password: str) -> None:
        self.username = username
        self.password = password
        self._lock = threading.Lock()
        self._valid: set[str] = set()

    def login(self, form: Mapping[str, str]) -> tuple[int, dict[str, str]]:
        """Return the status and JSON document of the answer to a login."""
        if form.get("grant_type") != "password" or form.get("scope") != "ovirt-app-api":
            return 400, {"error_code": "invalid_request", "error": "Unsupported grant type or scope."}
        given = (form.get("username", ""), form.get("password", ""))
        if given != (self.username, self.password):
            return 400, {
                "error_code": "access_denied",
                "error": "Cannot authenticate user Invalid username or password.",
            }
        token = secrets.token_urlsafe(48)
        with self._lock:
            self._valid.add(token)
        expires = int((time.time() + TOKEN_LIFETIME_S) * 1000)
        return 200, {
            "access_token": token,
            "scope": "ovirt-app-api",
            "exp": str(expires),
            "token_type": "bearer",
        }

    def logout(self, form: Mapping[str, str]) -> tuple[int, dict[str, str]]:
        """Return the status and JSON document of the answer to a logout. An unknown token is not an error."""
        with self._lock:
            self._valid.discard(form.get("token", ""))
        return 200, {}

    def accepts(self, authorization: str | None) -> bool:
        """Return whether the value of an Authorization header is a valid bearer token."""
        scheme, _, token = (authorization or "").partition(" ")
        with self._lock:
            return scheme.lower() == "bearer" and token.strip() in self._valid

    def expire_all(self) -> None:
        with self._lock:
            self._valid.clear()

    @property
    def count(self) -> int:
        """The number of open logins."""
        with self._lock:
            return len(self._valid)
