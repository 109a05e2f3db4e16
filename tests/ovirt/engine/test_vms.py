# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from pitr.errors import EngineError, NoSuchVM, UsageError
from pitr.ovirt.engine import VM, Engine, find_vm, get_configuration, list_vms
from pitr.ovirt.engine.vms import same_vm_now
from tests.support.scripted_engine import MISSING, Answer, Script, fault

ID_1 = "11111111-1111-1111-1111-111111111111"
ID_2 = "22222222-2222-2222-2222-222222222222"
CLUSTER = '<cluster id="c1"><name>Default</name><version><major>4</major><minor>6</minor></version></cluster>'

IN_CLUSTER = '<status>up</status><cluster id="c1"/>'


def vm(vm_id: str, name: str, more: str = "<status>up</status>") -> str:
    return f'<vm id="{vm_id}"><name>{name}</name>{more}</vm>'


def test_a_vm_is_found_by_its_name(engine: Engine, script: Script) -> None:
    script.on(
        "GET",
        r"/vms\?search=name%3Dweb1",
        f"<vms>{vm(ID_1, 'web1', IN_CLUSTER)}</vms>",
    )
    script.on("GET", "/clusters/c1", CLUSTER)
    assert find_vm(engine, "web1") == VM(ID_1, "web1", True, "up", "c1", "Default", "4.6")


def test_a_vm_is_read_again_without_its_cluster(engine: Engine, script: Script) -> None:
    script.on(
        "GET",
        f"/vms/{ID_1}",
        vm(ID_1, "web1", IN_CLUSTER),
        vm(ID_1, "web2", IN_CLUSTER.replace("up", "down")),
    )
    script.on("GET", "/clusters/c1", CLUSTER)
    first = find_vm(engine, ID_1)
    assert same_vm_now(engine, first) == VM(ID_1, "web2", False, "down", "c1", "Default", "4.6")
    assert script.asked("GET", "/clusters/c1") == 1


def test_a_vm_is_found_by_its_id_and_can_have_its_own_compatibility(engine: Engine, script: Script) -> None:
    own = "<custom_compatibility_version><major>4</major><minor>7</minor></custom_compatibility_version>"
    script.on("GET", f"/vms/{ID_1}", vm(ID_1, "web1", f"<status>down</status>{own}"))
    assert find_vm(engine, ID_1) == VM(ID_1, "web1", False, "down", None, None, "4.7")


def test_a_name_that_looks_like_an_id_is_a_name_after_all(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms.*", f"<vms>{vm(ID_2, ID_1)}</vms>")
    script.on("GET", f"/vms/{ID_1}", MISSING)
    assert find_vm(engine, ID_1).id == ID_2


def test_the_engines_answer_is_filtered_exactly(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms.*", f"<vms>{vm(ID_1, 'WEB1')}{vm(ID_2, 'web1')}</vms>")
    assert find_vm(engine, "web1").id == ID_2


@pytest.mark.parametrize("name", ['we"b 1', "web*", "größe", "a=b or name=*", "or"])
def test_names_that_a_search_would_misread_are_found_in_the_whole_list(
    engine: Engine, script: Script, name: str
) -> None:
    escaped = name.replace('"', "&quot;")
    script.on("GET", "/vms", f"<vms>{vm(ID_2, 'web1')}{vm(ID_1, escaped)}</vms>")
    assert find_vm(engine, name).id == ID_1
    assert script.asked("GET", r"/vms\?.*") == 0


def test_a_missing_vm_exits_with_4(engine: Engine, script: Script) -> None:
    script.on("GET", r"/vms(\?.*)?", "<vms/>")
    for name in ("web\x1b1", ID_1):
        with pytest.raises(NoSuchVM, match=r"^VM .* not found") as caught:
            find_vm(engine, name)
        assert caught.value.exit_code == 4
        assert "\x1b" not in str(caught.value)


def test_an_ambiguous_name_lists_the_ids(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms.*", f"<vms>{vm(ID_1, 'web1')}{vm(ID_2, 'web1')}</vms>")
    with pytest.raises(UsageError, match=rf"{ID_1}, {ID_2}"):
        find_vm(engine, "web1")


def test_a_search_that_the_engine_refuses_is_reported(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms.*", fault(400, "[bad search]"))
    with pytest.raises(EngineError, match=r"listing VMs: .* answered 400: bad search"):
        find_vm(engine, "web1")


def test_a_vm_of_an_invisible_cluster_only_lacks_its_name(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms.*", f"<vms>{vm(ID_1, 'web1', IN_CLUSTER)}</vms>")
    found = find_vm(engine, "web1")
    assert (found.cluster_id, found.cluster_name, found.compatibility) == ("c1", None, None)


def test_all_vms_are_sorted_by_name(engine: Engine, script: Script) -> None:
    script.on("GET", "/vms", f"<vms>{vm(ID_2, 'web2', IN_CLUSTER)}{vm(ID_1, 'web1')}</vms>")
    script.on("GET", "/clusters", f"<clusters>{CLUSTER}</clusters>")
    assert [(found.name, found.compatibility) for found in list_vms(engine)] == [
        ("web1", None),
        ("web2", "4.6"),
    ]


def test_the_configuration_is_requested_until_the_engine_sends_it(engine: Engine, script: Script) -> None:
    document = "<configuration><type>ovf</type><data>&lt;Envelope/&gt;</data></configuration>"
    ovf = f"<initialization>{document}</initialization>"
    path = rf"/vms/{ID_1}\?all_content=true"
    script.on("GET", path, vm(ID_1, "web1"), vm(ID_1, "web1", "<initialization/>"), vm(ID_1, "web1", ovf))
    assert get_configuration(engine, ID_1) == "<Envelope/>"
    assert script.asked("GET", path) == 3


def test_a_configuration_that_never_comes_is_none(engine: Engine, script: Script) -> None:
    script.on("GET", ".*all_content=true", vm(ID_1, "web1"))
    assert get_configuration(engine, ID_1, timeout_s=0.1) is None


def test_the_configuration_of_a_missing_vm_is_no_such_vm(engine: Engine, script: Script) -> None:
    script.on("GET", ".*", Answer(404, "", None))
    with pytest.raises(NoSuchVM):
        get_configuration(engine, ID_1)
