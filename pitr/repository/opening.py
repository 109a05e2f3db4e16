# SPDX-License-Identifier: GPL-2.0-or-later
"""Open what a repository consists of: its store, what marks it, the state of this host, and the keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pitr.repository import location as locations
from pitr.repository import marker, sealed
from pitr.repository.location import Location
from pitr.repository.marker import Marker
from pitr.repository.store import Store

if TYPE_CHECKING:
    from pitr.repository.sealing.keyring import Keyring


def opened_parts(location: Location) -> tuple[Store, Marker, Path, Keyring | None]:
    """Return the store, which the caller closes, the marker, the folder of this host's state, and the keys.

    Raises RepositoryError if there is no repository, or if it needs a newer pitr.
    """
    first = locations.opened(location, locations.scratch_state())
    try:
        found = marker.read(location, first)
        keyring = sealed.keyring_of(found, first)
        state = locations.state_of(location, found.id)
        # A second store would connect a second time.
        store = locations.settled(first, location, state, found.lock)
    except BaseException:
        first.close()
        raise
    return sealed.above(store, keyring), found, state, keyring
