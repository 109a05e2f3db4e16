# SPDX-License-Identifier: GPL-2.0-or-later
"""Notices: who gets them, when, and that no secret is in any output."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pitr import times
from pitr.jobs.policy_run import notices, secrets
from pitr.jobs.policy_run.policy import NoticeSettings
from pitr.lab import Lab
from tests.support.lab import MiB
from tests.support.pitr import Pitr
from tests.support.policies import NoticeServer, add_vm, configure, mail_server, notice_server


def _policy(server: NoticeServer, folder: Path, *, events: str = "") -> str:
    address = server.url.removeprefix("http://")
    return (
        '[policy.p]\nvms = ["web1"]\nmax_age = "26h"\n[policy.p.notify]\n'
        f'urls = ["json://user:hidden-password@{address}/service"]\nping = "{server.url}/${{PING_ID}}"\n'
        f"command = '(echo \"$PITR_EVENT: $PITR_SUBJECT\"; cat) >> {folder}/told'\n{events}"
    )


def test_failure_and_recovery_are_told_and_every_run_pings(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = add_vm(lab, "web1")
    told = tmp_path / "told"
    pinging = pitr.with_environment(PING_ID="hidden-id")
    with notice_server() as server:
        configure(pitr, _policy(server, tmp_path))
        good = pinging("run", "--output", "json")
        assert server.paths == ["/hidden-id/start", "/hidden-id"] and not told.exists()
        server.got.clear()

        lab.engine.set_vm(vm.id, previewing=True)
        bad = pinging("run", "--output", "json", code=1)
        assert server.paths == ["/hidden-id/start", "/service", "/hidden-id/fail"]
        assert "previewing" in told.read_text() and told.read_text().startswith("failure: pitr: policy p on ")
        service = json.loads(server.got[1][1])
        assert "1 of 1 step failed" in service["title"] and "backup web1: FAILED" in service["message"]
        assert "backup web1: FAILED" in server.got[2][1]
        assert [(sent["via"], sent["event"], sent["ok"]) for sent in bad.json["notices"]] == [
            ("ping http://127.0.0.1/…", "start", True),
            ("json://…", "failure", True),
            ("command", "failure", True),
            ("ping http://127.0.0.1/…", "failure", True),
        ]

        told.unlink()
        lab.engine.set_vm(vm.id, previewing=False)
        recovered = pinging("run", "--output", "json")
        assert told.read_text().startswith("recovery: ")
        told.unlink()
        pinging("run")
        assert not told.exists(), "the next success is no news"
    for result in (good, bad, recovered):
        assert "hidden" not in result.stdout + result.stderr
    assert "hidden" not in pitr("history", "--output", "json").stdout


def test_each_success_is_told_if_the_policy_asks_for_it(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1")
    with notice_server() as server:
        configure(pitr, _policy(server, tmp_path, events='on = ["success"]\n'))
        pitr.with_environment(PING_ID="x")("run")
        assert server.paths == ["/x/start", "/service", "/x"]


def test_a_notice_that_fails_is_told_and_does_not_fail_the_run(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1")
    with notice_server() as server:
        server.status = 404
        configure(
            pitr,
            _policy(server, tmp_path, events='on = ["success"]\n').replace(
                f'(echo "$PITR_EVENT: $PITR_SUBJECT"; cat) >> {tmp_path}/told', "echo no mail here; exit 9"
            ),
        )
        result = pitr.with_environment(PING_ID="hidden-id")("run", "--output", "json")
    errors = {sent["via"]: sent["error"]["message"] for sent in result.json["notices"]}
    assert result.json["ok"] and not any(sent["ok"] for sent in result.json["notices"])
    assert errors["command"] == "it exited with 9: no mail here"
    assert "404" in errors["json://…"] and "404" in errors["ping http://127.0.0.1/…"]
    assert "the notice through command failed" in result.stderr
    assert "hidden" not in result.stdout + result.stderr


def test_a_missing_variable_or_file_of_a_notice_is_told(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    add_vm(lab, "web1")
    configure(
        pitr,
        '[policy.p]\nvms = ["web1"]\n[policy.p.notify]\non = ["success"]\nurls = ["json://${NO_SUCH}/x"]\n'
        f'ping_file = "{tmp_path}/none"\n',
    )
    result = pitr("run", "--output", "json")
    messages = " ".join(sent["error"]["message"] for sent in result.json["notices"])
    assert "NO_SUCH" in messages and "cannot read the file" in messages


def test_a_failure_comes_by_mail(lab: Lab, pitr: Pitr) -> None:
    with mail_server() as (port, mails):
        configure(
            pitr,
            "[policy.p]\nvms = ['gone']\n"
            f"notify = 'mailto://127.0.0.1:{port}?from=pitr@example.com&to=admin@example.com'\n",
        )
        assert pitr.json("run", code=1)["notices"] == [
            {"via": "mailto://…", "event": "failure", "ok": True, "error": None}
        ]
    assert len(mails) == 1
    assert "To: admin@example.com" in mails[0] and "Subject: pitr: policy p on" in mails[0]
    assert "backup gone: FAILED: VM 'gone' not found on the engine" in mails[0]


def test_a_password_may_have_any_characters() -> None:
    settings = NoticeSettings(urls=("mailtos://backup:${PW}@mail.example.com?to=${TO}", "${WHOLE}"))
    values = {"PW": "p@s/s%", "TO": "a@b.example", "WHOLE": "json://u:p@h/x"}
    assert secrets.notice_urls(settings, values) == [
        "mailtos://backup:p%40s%2Fs%25@mail.example.com?to=a@b.example",
        "json://u:p@h/x",
    ]


def test_secrets_can_be_in_files(tmp_path: Path) -> None:
    urls, ping = tmp_path / "urls", tmp_path / "ping"
    urls.write_text("# the admins\njson://localhost/${ID}\n\nmailto://x\n")
    ping.write_text("https://hc.example.com/abc/\n")
    settings = NoticeSettings(urls=("tgram://t/1",), urls_file=str(urls), ping_file=str(ping))
    assert secrets.notice_urls(settings, {"ID": "7"}) == ["tgram://t/1", "json://localhost/7", "mailto://x"]
    assert secrets.ping_url(settings) == "https://hc.example.com/abc"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("tgram://123456:AAEabc/77", "tgram://…"),
        ("${WHOLE_URL}", "${WHOLE_URL}"),
        ("not a url with secret", "…"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert secrets.masked_service(url) == shown
    assert "AAEabc" not in secrets.masked_ping(url) and "secret" not in secrets.masked_ping(url)


def test_a_message_of_the_library_with_a_secret_is_hidden() -> None:
    url = "json://user:long-password@host.example.com:8080/token1234?key=abc"
    assert secrets.hides("Failed to send JSON notification: error=404", [url])
    assert not secrets.hides("cannot reach /token1234", [url])
    assert not secrets.hides("login long-password refused", [url])
    # The host of a mail server helps, and the token of a bot does not.
    assert secrets.hides("cannot connect to host.example.com:8080", [url])
    assert not secrets.hides("Telegram:123456:AAE refused", ["tgram://123456:AAE/77"])
    assert not secrets.hides("user pw refused", ["mailto://user:pw@host.example.com"])


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "has_apprise", lambda: False)
    notice = notices.Notice("failure", "subject", "text")
    (sent,) = notices.send(NoticeSettings(urls=("json://localhost/x",)), "p", notice)
    assert sent.error is not None and "pip install 'pitr[notice]'" in sent.error.advice


def test_a_run_that_comes_too_late_is_told(
    lab: Lab, pitr: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_vm(lab, "web1")
    told = tmp_path / "told"
    pinging = pitr.with_environment(PING_ID="x")
    with notice_server() as server:
        configure(pitr, _policy(server, tmp_path))
        assert "never run" in pinging("notice", "check", code=1).stdout
        told.unlink()
        pinging("run")
        assert pinging.json("notice", "check")["ok"] and not told.exists()
        real = times.now

        def later() -> datetime:
            return real() + timedelta(hours=30)

        monkeypatch.setattr(times, "now", later)
        checked = pinging.json("notice", "check", code=1)
        assert not checked["ok"] and "no run for 1 day 6 h" in checked["message"]
        assert told.read_text().startswith("late: ")
        told.unlink()
        pinging("run")
        assert told.read_text().startswith("late: ") and "no run for 1 day 6 h" in told.read_text()


def test_an_unusual_point_is_told(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = lab.add_vm("web1")
    vm.add_disk("system", 16 * MiB, bootable=True)
    vm.start()
    told = tmp_path / "told"
    configure(pitr, f"[policy.p]\nvms = ['web1']\n[policy.p.notify]\ncommand = 'cat >> {told}'\n")
    chance = random.Random(7)
    for number in range(10):
        with vm.disks[0].guest() as guest:
            guest.write(number << 16, b"A" * (64 << 10))
        pitr("run")
    assert not told.exists()
    with vm.disks[0].guest() as guest:
        guest.write(0, chance.randbytes(12 * MiB))
    document = pitr.json("run")
    assert document["ok"] and document["steps"][0]["unusual"]
    assert [(sent["event"], sent["ok"]) for sent in document["notices"]] == [("unusual", True)]
    assert told.read_text().startswith("unusual changes of web1\nPolicy p: 1 step, all good\n")
    assert "encryption?" in told.read_text()


def test_notice_test_tries_every_channel(pitr: Pitr, tmp_path: Path) -> None:
    with notice_server() as server:
        configure(pitr, _policy(server, tmp_path))
        result = pitr.with_environment(PING_ID="hidden")("notice", "test")
        assert server.paths == ["/service", "/hidden"]
        assert (tmp_path / "told").read_text().startswith("test: pitr: test of policy p")
        assert result.stdout.count("sent: ") == 3 and "hidden" not in result.stdout
        server.status = 500
        failed = pitr.with_environment(PING_ID="x").json("notice", "test", code=1)
        assert not failed["ok"] and len(failed["notices"]) == 3
    configure(pitr, "[policy.p]\nall = true\n")
    assert "has no channel for notices" in pitr("notice", "test", code=2).complaint
