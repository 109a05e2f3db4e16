# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a repository on a real Ceph gateway with one in a folder, both on this machine, and count its requests.

It needs Ceph's programs (`make install-s3`). A point is imported from an image: the data takes the same way into the
repository as that of a backup, without the engine.
"""

from __future__ import annotations

import io
import itertools
import os
import sys
import uuid
from functools import partial
from pathlib import Path

import boto3
import disks
import measure
from measure import Result, Size

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pitr.repository.store.s3 import S3Location, open_store
from tests.support import radosgw
from tests.support.hostile_s3 import RefusingProxy
from tests.support.s3 import BUCKET, KEY, SECRET


def benchmark(size: Size) -> list[Result]:
    with measure.folder() as folder, radosgw.running() as address:
        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )
        client.create_bucket(Bucket=BUCKET)
        image = folder / "disk.raw"
        disks.real_disk(image, min(size.disk_bytes, measure.GIB))
        hosts = {"a folder": _Host(folder, None), "radosgw": _Host(folder, address)}
        numbers = itertools.count()

        def restore(host: _Host) -> float:
            target = folder / f"out{next(numbers)}"
            taken = host.run("restore", "web", "--at", "now", "--to-file", target)
            target.unlink()
            return taken

        for host in hosts.values():
            host.begin(image)
        imports = measure.in_turn(
            size.runs, {name: partial(host.begin, image) for name, host in hosts.items()}
        )
        restores = measure.in_turn(size.runs, {name: partial(restore, host) for name, host in hosts.items()})
        mib = image.stat().st_size >> 20
        return [
            measure.compared(f"import of a full, {mib} MiB", imports, "radosgw", "a folder", goal=1.15),
            measure.compared("restore of it to a file", restores, "radosgw", "a folder", goal=1.15),
            *_counted(folder, address, image),
            _uploads(folder, address, client, size),
        ]


class _Host:
    """Runs pitr with repositories in a folder, or on the gateway at `address`."""

    def __init__(self, folder: Path, address: str | None) -> None:
        self._folder = folder
        self._address = address
        self._repository = ""

    def begin(self, image: Path) -> float:
        """Store the image in a new repository; return the seconds that this took."""
        name = uuid.uuid4().hex
        self._repository = f"s3://{BUCKET}/{name}" if self._address else str(self._folder / name)
        self.run("init")
        return self.add(image, "2026-11-01")

    def add(self, image: Path, day: str) -> float:
        return self.run("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", day)

    def run(self, *arguments: object) -> float:
        environment = {
            "PITR_REPO": self._repository,
            "AWS_ENDPOINT_URL_S3": self._address or "",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "XDG_STATE_HOME": str(self._folder / "state"),
        }
        command = [sys.executable, "-m", "pitr", *(str(each) for each in arguments), "--quiet"]
        return measure.run(command, environment).wall_s


def _counted(folder: Path, address: str, image: Path) -> list[Result]:
    """Count the requests of a restore, and those of a point that changed little."""
    with RefusingProxy(address) as proxy:
        host = _Host(folder, proxy.address)
        host.begin(image)
        proxy.requests.clear()
        target = folder / "counted"
        host.run("restore", "web", "--at", "now", "--to-file", target)
        target.unlink()
        of_blobs = [path for method, path in proxy.requests if method == "GET" and "/blobs/" in path]
        reads = [path for path in of_blobs if "list-type" not in path]
        stored = _stored(proxy, reads)
        with image.open("r+b") as file:
            file.write(os.urandom(measure.MIB))
        proxy.requests.clear()
        host.add(image, "2026-11-02")
        # The comparison reads nothing that did not change, and a small blob is one request.
        writes = [path for method, path in proxy.requests if method in ("PUT", "POST", "DELETE")]
        others = len(proxy.requests) - len(writes)
    gets = len(reads) / max(stored / (2 << 20), 1)
    return [
        Result("GETs of a restore per 2 MiB stored", gets, 1, "", 1.0, "1", f"{len(reads)} GETs"),
        Result("writes of a point of one disk", len(writes), 10, "", 1.0, "10"),
        Result("other requests of its import", others, 10, "", None, "10"),
    ]


def _stored(proxy: RefusingProxy, reads: list[str]) -> int:
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{proxy.behind.netloc}",
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    keys = {path.partition("?")[0].removeprefix(f"/{BUCKET}/") for path in reads}
    return sum(client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] for key in keys)


def _uploads(folder: Path, address: str, client: object, size: Size) -> Result:
    data = os.urandom(256 * measure.MIB)
    place = S3Location(BUCKET, "upload", endpoint=address, access_key_id=KEY, secret_access_key=SECRET)

    def obstore() -> None:
        store = open_store(place, folder / "state")
        with store.new(f"blobs/d/{uuid.uuid4().hex}") as new:
            for start in range(0, len(data), measure.MIB):
                new.write(memoryview(data)[start : start + measure.MIB])
            new.commit()
        store.close()

    def by_boto3() -> None:
        client.upload_fileobj(io.BytesIO(data), BUCKET, f"upload/{uuid.uuid4().hex}")  # type: ignore[attr-defined]

    samples = measure.in_turn(
        size.runs, {"obstore": lambda: measure.seconds(obstore), "boto3": lambda: measure.seconds(by_boto3)}
    )
    return measure.compared("upload of 256 MiB", samples, "obstore", "boto3", goal=None)


if __name__ == "__main__":
    measure.main(benchmark)
