# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository in a bucket: every command works as on a folder, also from another host."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pitr.cli import repository_location
from pitr.errors import UsageError
from pitr.repository.store.s3 import S3Location
from tests.support import s3
from tests.support.hostile_s3 import OverwritingServer, RefusingProxy
from tests.support.lab import assert_same
from tests.support.pitr import Pitr
from tests.support.s3 import host_at, keys

MiB = 1 << 20


@pytest.fixture
def location() -> S3Location:
    return s3.place()


@pytest.fixture
def remote(location: S3Location, tmp_path: Path) -> Pitr:
    """Run the program with a new repository in the bucket."""
    runner = host_at(location, tmp_path / "state")
    created = runner.json("init")["repository"]
    assert created["path"] == location.url
    return runner


def _image(path: Path, *pieces: bytes) -> Path:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.truncate(32 * MiB)
    return path


def test_a_point_goes_into_the_bucket_and_comes_back(
    remote: Pitr, location: S3Location, tmp_path: Path
) -> None:
    image = _image(tmp_path / "image", os.urandom(12 * MiB), bytes(MiB), os.urandom(5 * MiB))
    point = remote.json("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", "2026-11-01")
    [imported] = point["imported"]
    assert remote.json("list")["points"] == [imported]
    assert remote.json("verify")["ok"]
    remote("restore", "web", "--at", "now", "--to-file", tmp_path / "out.raw")
    assert_same(tmp_path / "out.raw", image)
    remote("export", "web", "--at", "now", "--to", tmp_path / "stream")
    assert remote.json("drill", "web", "--digests-only")["drill"]["ok"]
    assert remote.json("status")["ok"]
    remote("hold", "web")
    remote("forget", "web", "--all", code=2)
    remote("release", "web")
    assert all(key.startswith(f"{location.prefix}/") for key in keys(location))
    remote("forget", "web", "--all")
    # The data stays for the grace time.
    assert {key for key in keys(location) if key.endswith(".zst")}
    assert remote.json("list")["points"] == []
    # Nothing of this machine's files is left in the bucket.
    names = {key.removeprefix(f"{location.prefix}/").partition("/")[0] for key in keys(location)}
    assert not names & {"catalog.db", "locks", "tmp", "probe"}


def test_another_host_sees_all_points_and_adds_its_own(
    remote: Pitr, location: S3Location, tmp_path: Path
) -> None:
    first = _image(tmp_path / "first", os.urandom(MiB))
    remote("import", "raw", first, "--vm", "web", "--disk", "sys", "--time", "2026-11-01")
    other = host_at(location, tmp_path / "other")
    second = _image(tmp_path / "second", os.urandom(MiB))
    other("import", "raw", second, "--vm", "web", "--disk", "sys", "--time", "2026-11-02")
    for host in (remote, other, host_at(location, tmp_path / "third")):
        assert len(host.json("list")["points"]) == 2
    remote("restore", "web", "--at", "2026-11-02", "--to-file", tmp_path / "out.raw")
    assert_same(tmp_path / "out.raw", second)


def test_damage_in_the_bucket_is_found(remote: Pitr, location: S3Location, tmp_path: Path) -> None:
    image = _image(tmp_path / "image", os.urandom(2 * MiB))
    remote("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", "2026-11-01")
    client = s3.client(s3.server())
    [blob] = (key for key in keys(location) if key.endswith(".zst"))
    data = bytearray(client.get_object(Bucket=location.bucket, Key=blob)["Body"].read())
    data[len(data) // 2] ^= 1
    client.put_object(Bucket=location.bucket, Key=blob, Body=bytes(data))
    assert not remote.json("verify", code=3)["ok"]
    assert host_at(location, tmp_path / "other").json("list")["points"][0]["damaged"]
    remote("restore", "web", "--at", "now", "--to-file", tmp_path / "out.raw", code=3)


def test_what_holds_a_repository_is_not_taken_again(remote: Pitr, location: S3Location) -> None:
    before = keys(location)
    assert "repository already" in remote("init", code=1).complaint
    assert keys(location) == before


def test_init_makes_no_bucket(location: S3Location, tmp_path: Path) -> None:
    missing = host_at(replace(location, bucket="no-such-bucket"), tmp_path)
    assert "no such bucket" in missing("init", code=6).complaint
    assert "no such bucket" in missing("list", code=6).complaint


def test_a_store_that_overwrites_silently_is_refused_and_left_empty(
    location: S3Location, tmp_path: Path
) -> None:
    with OverwritingServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = host_at(replace(location, endpoint=f"http://127.0.0.1:{server.server_port}"), tmp_path)
        refused = host("init", code=6)
        assert "silently" in refused.complaint
        assert server.objects == {}
        server.shutdown()


def test_a_missing_key_and_a_missing_server_are_told(location: S3Location, tmp_path: Path) -> None:
    away = host_at(replace(location, endpoint="http://127.0.0.1:1"), tmp_path)
    refused = away("list", code=6)
    assert "unreachable" in refused.complaint and "AWS_ENDPOINT_URL_S3" in refused.complaint


def test_an_interrupt_ends_the_wait_for_a_silent_server(location: S3Location, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        host = host_at(replace(location, endpoint=endpoint), tmp_path)
        with host.process("list") as process:
            connection, _ = listener.accept()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 128 + signal.SIGINT
            connection.close()


def test_the_local_state_can_be_lost(remote: Pitr, tmp_path: Path) -> None:
    image = _image(tmp_path / "image", os.urandom(MiB))
    remote("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", "2026-11-01")
    [state] = (tmp_path / "state" / "pitr").iterdir()
    assert (state / "catalog.db").is_file()
    before = remote.json("list")
    shutil.rmtree(state)
    assert remote.json("list") == before
    remote("verify")


@pytest.mark.parametrize("text", ["s3:/bucket", "s3://", "s3://Bucket/x", "s3://bucket/../x", "s3://b/x y"])
def test_what_looks_like_a_bucket_never_becomes_a_folder(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        repository_location.parsed(text)
    refused = Pitr({"HOME": str(tmp_path)})("init", text, code=2)
    assert "s3://BUCKET/PREFIX" in refused.complaint or "prefix" in refused.complaint
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_names_the_bucket(location: S3Location, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[repository]\nurl = "{location.url}"\nendpoint = "{location.endpoint}"\nregion = "us-east-1"\n'
        f'access_key_id = "key"\nsecret_access_key_file = "{secret}"\n'
    )
    host = Pitr({"PITR_CONFIG": str(config), "XDG_STATE_HOME": str(tmp_path / "state")})
    host("init")
    assert host.json("list") == {"points": []}
    assert "secret\n" not in host("config", "show").stdout
    config.write_text('[repository]\nurl = "/srv/x"\nregion = "eu"\n')
    assert "repository.region" in host("list", code=2).complaint
    config.write_text('[repository]\nurl = "s3://bucket"\nregoin = "eu"\n')
    assert "region" in host("list", code=2).complaint


def test_a_store_that_fails_in_between_is_no_damage(
    remote: Pitr, location: S3Location, tmp_path: Path
) -> None:
    image = _image(tmp_path / "image", os.urandom(2 * MiB))
    remote("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", "2026-11-01")
    with RefusingProxy(str(location.endpoint)) as proxy:
        away = host_at(replace(location, endpoint=proxy.address), tmp_path / "away")
        for refused in ("/backups/", "/indexes/", "/blobs/"):
            proxy.refused = location.prefix + refused
            for arguments in (
                ("verify",),
                ("restore", "web", "--at", "now", "--to-file", tmp_path / "out"),
                ("restore", "web", "--at", "now", "--to-file", tmp_path / "out", "--keep-going"),
            ):
                failed = away(*arguments, code=6)
                assert "refuses the access key" in failed.complaint
    assert remote.json("verify")["ok"] and not remote.json("list")["points"][0]["damaged"]


def test_a_prune_removes_the_parts_of_an_upload_that_a_dead_host_left(
    location: S3Location, tmp_path: Path
) -> None:
    if s3.SERVER_VARIABLE in os.environ:
        pytest.skip("a real server tells when the uploads began: just now")
    remote = host_at(location, tmp_path / "state")
    remote("init", "--grace", "1s")
    client = s3.client(s3.server())
    for prefix in (location.prefix, "beside"):
        begun = client.create_multipart_upload(
            Bucket=location.bucket, Key=f"{prefix}/blobs/disk/lost.sparse.zst"
        )
        client.upload_part(
            Bucket=location.bucket,
            Key=begun["Key"],
            UploadId=begun["UploadId"],
            PartNumber=1,
            Body=bytes(100),
        )
    # The server says that all uploads began years ago.
    options = ("--keep-last", "1", "--grace", "0s")
    for more in (("--dry-run",), ()):
        assert remote.json("prune", *options, *more)["unreferenced"] == ["blobs/disk/lost.sparse.zst"]
    assert remote.json("prune", *options)["unreferenced"] == []
    left = client.list_multipart_uploads(Bucket=location.bucket, Prefix="beside/")["Uploads"]
    client.abort_multipart_upload(Bucket=location.bucket, Key=left[0]["Key"], UploadId=left[0]["UploadId"])
