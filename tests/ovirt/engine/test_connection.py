# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import datetime
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pitr.errors import EngineError, LoginError
from pitr.ovirt.engine import Engine, EngineConfig, find_vm
from pitr.ovirt.engine.faults import EngineFault
from tests.support.scripted_engine import API, DROP, MISSING, VERSION, Answer, Script, config_of, fault, serve

VM = '<vm id="11111111-1111-1111-1111-111111111111"><name>web1</name><status>up</status></vm>'
HTML = Answer(503, "<html>Service Unavailable</html>", "text/html")


def one_line(error: Exception) -> str:
    text = str(error)
    assert "\n" not in text
    assert "secret" not in text and "token-1" not in text
    return text


def test_entering_logs_in_and_leaving_logs_out(script: Script) -> None:
    with Engine(config_of(script)) as engine:
        assert engine.version == "4.5.6"
    assert len(script.logins) == 1
    assert script.requests == [("GET", ""), ("POST", "logout")]


def test_a_wrong_password_is_a_login_error_of_one_line(script: Script) -> None:
    with (
        pytest.raises(LoginError, match=r"refuses the login of admin@internal: Cannot auth") as caught,
        Engine(config_of(script, password="wrong")),
    ):
        pass
    assert "wrong" not in one_line(caught.value).replace("wrong password", "")
    assert len(script.logins) == 1, "a wrong password is not tried again: accounts get locked"


def test_a_password_with_odd_characters_arrives_unchanged(script: Script) -> None:
    script.password = "p%25%26%3D+%C3%A4"
    with Engine(config_of(script, password="p%&= ä")) as engine:
        assert engine.version == "4.5.6"


def test_a_refused_connection_is_reported_at_once(script: Script) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}{API}"
        with (
            pytest.raises(EngineError, match=r"no answer from the engine at 127[.]0[.]0[.]1:") as caught,
            Engine(EngineConfig(url, "a", "b")),
        ):
            pass
    assert caught.value.exit_code == 6
    assert "URL" in caught.value.advice


def test_a_server_that_is_not_an_engine_is_recognized(script: Script) -> None:
    script.sso = [Answer(404, "<html>", "text/html")]
    with pytest.raises(EngineError, match=r"logging in: the engine at .* answered 404"):
        Engine(config_of(script)).version  # noqa: B018
    script.sso = [Answer(200, "<html>", "text/html")]
    with pytest.raises(EngineError, match=r"is not from an oVirt engine"):
        Engine(config_of(script)).version  # noqa: B018


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def test_tls_is_checked_against_the_cafile_unless_insecure(tls: tuple[Path, Path], tmp_path: Path) -> None:
    with serve(tls) as script:
        with Engine(config_of(script, cafile=tls[0])) as engine:
            assert engine.version == "4.5.6"
        with Engine(config_of(script, secure=False)) as engine:
            assert engine.version == "4.5.6"
        with pytest.raises(EngineError, match=r"certificate of the engine at .* is not trusted") as caught:
            Engine(config_of(script)).version  # noqa: B018
        assert "--cafile" in caught.value.advice
        garbage = tmp_path / "garbage.pem"
        garbage.write_text("no certificate")
        with pytest.raises(EngineError, match=r"cannot use the CA file"):
            Engine(config_of(script, cafile=garbage)).version  # noqa: B018


def test_an_untrusted_certificate_after_the_login_is_reported_too(tls: tuple[Path, Path]) -> None:
    with serve(tls) as script:
        engine = Engine(config_of(script))
        engine._login._token = script.token  # as if the login had used another connection
        with pytest.raises(EngineError, match=r"certificate of the engine at .* is not trusted"):
            engine.version  # noqa: B018


def test_an_expired_token_in_the_middle_logs_in_again_once(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms.*", f"<vms>{VM}</vms>")
    assert engine.version
    script.token = "token-2"
    assert find_vm(engine, "web1").name == "web1"
    assert len(script.logins) == 2


def test_a_token_that_is_never_accepted_ends_as_a_login_error(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms.*", Answer(401, "<html>", "text/html"))
    with pytest.raises(LoginError, match=r"rejects the login"):
        find_vm(engine, "web1")
    assert script.asked("GET", "/vms.*") == 2


def test_threads_share_one_login(engine: Engine, script: Script) -> None:
    def read() -> None:
        assert engine.call("reading", lambda system: system.get()).product_info is not None

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert script.asked("GET", "") == 6
    assert len(script.logins) == 1


@pytest.mark.parametrize(
    "trouble", [DROP, HTML, fault(500, "[Internal Engine Error]"), Answer(500, "", None)]
)
def test_transient_failures_are_retried(engine: Engine, script: Script, trouble: Answer) -> None:
    # Twice each, because libcurl itself retries once when a kept connection is closed.
    script.on("GET", "", trouble, trouble, trouble, VERSION)
    assert engine.version == "4.5.6"


def test_a_late_answer_is_requested_again(script: Script) -> None:
    waiting = threading.Event()
    script.on("GET", "", Answer(body=VERSION, then=lambda: waiting.wait(30)), VERSION)
    try:
        with Engine(config_of(script), retry_pause_s=0.01, request_timeout_s=1) as engine:
            assert engine.version == "4.5.6"
    finally:
        waiting.set()
    assert script.asked("GET", "") == 2


def test_retries_end(engine: Engine, script: Script) -> None:
    script.on("GET", "", HTML)
    with pytest.raises(EngineError, match=r"logging in: the engine at .* answered 503") as caught:
        engine.version  # noqa: B018
    assert 4 <= script.asked("GET", "") <= 6
    one_line(caught.value)


def test_a_request_that_changes_the_engine_is_not_sent_twice(engine: Engine, script: Script) -> None:
    assert engine.version
    script.on("POST", "/disks", HTML)

    def post(system: Any) -> Any:
        from ovirtsdk4 import types

        return system.disks_service().add(types.Disk(name="new"))

    with pytest.raises(EngineFault, match=r"answered 503"):
        engine.call("creating a disk", post, idempotent=False)
    assert script.asked("POST", "/disks") == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, "<vms><vm", "application/xml"),
        Answer(200, "<nonsense/>", "application/xml"),
        Answer(200, "<vms/>", None),
        Answer(200, "<vms><vm id='1'><memory></memory></vm></vms>", "application/xml"),
        Answer(200, "{}", "application/json"),
        Answer(200, ""),
    ],
)
def test_an_answer_that_makes_no_sense_is_one_clear_line(
    engine: Engine, script: Script, answer: Answer
) -> None:
    script.on("GET", "/vms.*", answer)
    with pytest.raises(
        EngineError, match=r"listing VMs: (the engine|cannot read the answer of the engine) at"
    ) as caught:
        find_vm(engine, "web1")
    one_line(caught.value)


def test_the_details_of_a_fault_are_in_the_message(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms.*", fault(403, "[query execution failed due to\ninsufficient permissions.]"))
    with pytest.raises(
        EngineError, match=r"answered 403: query execution failed due to insufficient"
    ) as caught:
        find_vm(engine, "web1")
    assert "permission" in caught.value.advice


def test_an_interrupted_call_leaves_a_usable_engine(engine: Engine, script: Script) -> None:
    assert engine.version

    def interrupted(system: Any) -> Any:
        system.vms_service().list(wait=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.call("listing", interrupted)
    script.on("GET", "/vms.*", f"<vms>{VM}</vms>")
    assert find_vm(engine, "web1").name == "web1"
    assert len(script.logins) == 1


def test_closing_never_raises_even_without_an_engine() -> None:
    with serve() as script:
        engine = Engine(config_of(script))
        assert engine.version
    engine.close()
    engine.close()


def test_a_missing_entity_differs_from_other_faults(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms/x", MISSING)
    with pytest.raises(EngineFault) as caught:
        engine.call("reading", lambda system: system.vms_service().vm_service("x").get())
    assert caught.value.missing and not caught.value.transient
