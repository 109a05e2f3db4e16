# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of frames loads each frame once, bounds its memory, and raises errors to the reader of the frame."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pitr.endpoints.points.frame_cache import FrameCache
from pitr.errors import FormatError
from pitr.repository.blob import Decompressor
from tests.support.pitr import wait_until

LENGTH = 1000


class Owner:
    """Frames of LENGTH bytes that contain their number. Loading one waits while `gate` is closed."""

    def __init__(self) -> None:
        self.loads: Counter[int] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        self.broken: set[int] = set()
        self._lock = threading.Lock()

    def load(self, layer: int, number: int, decompressor: Decompressor) -> bytes:
        with self._lock:
            self.loads[number] += 1
        assert self.gate.wait(30)
        if number in self.broken:
            raise FormatError(f"frame {number} is broken")
        return number.to_bytes(2, "big") * (LENGTH // 2)


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def cache() -> Iterator[FrameCache]:
    with FrameCache(10 * LENGTH, threads=2) as cache:
        yield cache


def test_a_frame_that_many_want_at_once_is_loaded_once(cache: FrameCache, owner: Owner) -> None:
    owner.gate.clear()
    with ThreadPoolExecutor(16) as pool:
        got = [pool.submit(cache.get, (owner, 0, 7)) for _ in range(16)]
        wait_until(lambda: owner.loads[7], "it is being loaded")
        cache.ask([(owner, 0, 7)])
        owner.gate.set()
        assert {future.result() for future in got} == {b"\0\7" * (LENGTH // 2)}
    assert owner.loads == {7: 1}


def test_what_was_used_last_stays_and_no_more_than_there_is_room_for(cache: FrameCache, owner: Owner) -> None:
    for number in range(10):
        cache.get((owner, 0, number))
    assert cache.used == 10 * LENGTH
    cache.get((owner, 0, 0))
    cache.get((owner, 0, 10))
    assert cache.used == 10 * LENGTH
    assert cache.has([(owner, 0, 0), (owner, 0, 10)]) and not cache.has([(owner, 0, 1)])
    cache.get((owner, 0, 1))
    assert owner.loads[0] == 1 and owner.loads[1] == 2


def test_a_frame_that_has_no_room_is_given_all_the_same(owner: Owner) -> None:
    with FrameCache(LENGTH - 1) as cache:
        assert cache.get((owner, 0, 1)) == b"\0\1" * (LENGTH // 2)
        assert cache.used == 0


def test_frames_of_two_disks_and_layers_are_not_mixed_up(cache: FrameCache, owner: Owner) -> None:
    other = Owner()
    for key in ((owner, 0, 1), (owner, 1, 1), (other, 0, 1)):
        cache.get(key)
    assert owner.loads[1] == 2 and other.loads[1] == 1


def test_an_error_goes_to_all_who_wait_and_is_not_kept(cache: FrameCache, owner: Owner) -> None:
    owner.broken.add(3)
    owner.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        got = [pool.submit(cache.get, (owner, 0, 3)) for _ in range(8)]
        wait_until(lambda: owner.loads[3], "it is being loaded")
        owner.gate.set()
        for future in got:
            with pytest.raises(FormatError, match="frame 3 is broken"):
                future.result()
    owner.broken.clear()
    assert cache.get((owner, 0, 3)) == b"\0\3" * (LENGTH // 2)


def test_what_is_asked_for_is_loaded_ahead(cache: FrameCache, owner: Owner) -> None:
    keys = [(owner, 0, number) for number in range(6)]
    owner.broken.add(5)
    cache.ask(keys)
    wait_until(lambda: cache.has(keys[:5]), "frames are loaded ahead")
    for key in keys[:5]:
        cache.get(key)
    assert all(owner.loads[number] == 1 for number in range(5))
    with pytest.raises(FormatError):
        cache.get(keys[5])


def test_nobody_waits_for_what_is_only_queued(cache: FrameCache, owner: Owner) -> None:
    owner.gate.clear()
    # Two threads are busy with these; the third waits in the queue.
    cache.ask([(owner, 0, number) for number in range(3)])
    wait_until(lambda: len(owner.loads) == 2, "both threads are busy")
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(cache.get, (owner, 0, 2))
        wait_until(lambda: owner.loads[2], "whoever wants it loads it")
        owner.gate.set()
        got.result()
    wait_until(lambda: cache.has([(owner, 0, 0), (owner, 0, 1)]), "the others are there too")
    assert owner.loads == {0: 1, 1: 1, 2: 1}


def test_closing_ends_the_threads_and_forgets_the_queue(owner: Owner) -> None:
    owner.gate.clear()
    cache = FrameCache(100 * LENGTH, threads=1)
    cache.ask([(owner, 0, number) for number in range(50)])
    wait_until(lambda: owner.loads, "one is being loaded")
    closing = threading.Thread(target=cache.close)
    closing.start()
    owner.gate.set()
    closing.join(30)
    assert not closing.is_alive() and sum(owner.loads.values()) == 1
    cache.ask([(owner, 0, 1)])


def test_many_threads_and_little_room(owner: Owner) -> None:
    chance = random.Random(1)
    wanted = [[chance.randrange(40) for _ in range(300)] for _ in range(8)]
    with FrameCache(5 * LENGTH, threads=3) as cache, ThreadPoolExecutor(8) as pool:

        def use(numbers: list[int]) -> bool:
            for number in numbers:
                cache.ask([(owner, 0, (number + ahead) % 40) for ahead in range(3)])
                if cache.get((owner, 0, number)) != number.to_bytes(2, "big") * (LENGTH // 2):
                    return False
                if cache.used > 5 * LENGTH:
                    return False
            return True

        assert all(pool.map(use, wanted))


class _Signal(Exception):
    """Raised by a signal handler in the middle of the main thread's work."""


def test_a_load_that_a_signal_breaks_off_is_done_again_by_the_same_thread(
    cache: FrameCache, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (owner, 0, 1)

    def interrupted(*_: object) -> None:
        raise _Signal

    with monkeypatch.context() as patch:
        # Only this call lies between the claim and the load.
        patch.setattr(cache, "_run", interrupted)
        with pytest.raises(_Signal):
            cache.get(key)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "load", interrupted)
        with pytest.raises(_Signal):
            cache.get(key)
    with ThreadPoolExecutor(1) as pool:
        assert cache.get(key) == b"\0\1" * (LENGTH // 2)
        assert pool.submit(cache.get, key).result(30) == b"\0\1" * (LENGTH // 2)
