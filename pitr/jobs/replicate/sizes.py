# SPDX-License-Identifier: GPL-2.0-or-later
"""Which objects of a VM's points a target has: from a list of their folder, where that takes fewer requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

from pitr.jobs.replicate.one_object import has_size
from pitr.jobs.replicate.pieces import Piece
from pitr.jobs.replicate.team import Team
from pitr.repository import Repository
from pitr.repository.store import Store

#: A list shows so many objects with one request.
_PAGE = 1000
#: A list takes longer than a request for one object.
_WORTH = 3


def _listed(store: Store, folder: str) -> Mapping[str, int]:
    return {each.name: each.size for each in store.listed(folder)}


class TargetSizes:
    """Looks for pieces in a target. Only the main thread asks for lists; any thread may look at the answers."""

    def __init__(self, target: Repository, team: Team) -> None:
        self._store = target.store
        self._team = team
        # A look at a file is quick, and the sizes of a sealed store can be those of other bytes than it lists.
        self._lists = target.path != target.location and target.keyring is None
        self._lengths: dict[str, int] = {}

    def ask(self, pieces: Iterable[Piece]) -> Callable[[Piece], bool | None]:
        """Ask for these pieces. Return what says of one whether it has its size: None if there is none.

        The answers are of this moment or later.
        """
        asked = {piece.name: piece for piece in pieces}
        counts = Counter(map(_folder, asked)) if self._lists else Counter()
        lists: dict[str, Future[Mapping[str, int]]] = {
            folder: self._team.ask(_listed, self._store, folder)
            for folder, count in counts.items()
            if count >= _WORTH + self._lengths.get(folder, 0) // _PAGE
        }
        single = {
            name: self._team.ask(has_size, self._store, piece)
            for name, piece in asked.items()
            if _folder(name) not in lists
        }

        def answer(piece: Piece) -> bool | None:
            if piece.name in single:
                return single[piece.name].result()
            folder = _folder(piece.name)
            sizes = lists[folder].result()
            self._lengths[folder] = len(sizes)
            size = sizes.get(piece.name)
            return None if size is None else size == piece.expected.size

        return answer


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
