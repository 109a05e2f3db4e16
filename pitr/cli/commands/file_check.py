# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr files check`: did an attacker change the files of a point?"""

from __future__ import annotations

import typer

from pitr import times
from pitr.cli import files_options, point_options
from pitr.cli.display import file_check as display
from pitr.cli.display.progress import showing
from pitr.cli.options import AtOption, Common, PointOption, with_common
from pitr.errors import PitrError, UsageError
from pitr.jobs.asked_time import parse
from pitr.jobs.files.check import SAMPLE, CheckRun, check_files
from pitr.jobs.point_order import newest_first


@with_common(moves_data=True)
def check(
    common: Common,
    vm: files_options.CheckedArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    since: files_options.CompareWithOption = None,
    sample: files_options.SampleOption = SAMPLE,
    reader: files_options.ReaderOption = None,
    exit_code: files_options.UnusualExitCodeOption = False,
) -> None:
    """Check whether the files of a point look encrypted. Default: the newest point.

    pitr reads the first bytes of a sample of the files and compares them with what their names say: a photo or a
    document that does not begin like one is probably encrypted. It also counts names that ransomware gives. pitr
    compares the result with earlier points and stores it: 'pitr status', 'pitr list' and 'pitr show' mark an unusual
    point.

    Examples: pitr files check web1; pitr files check web1 --at 2020-06-30T22:00;
    pitr files check web1 --at now --since 1c2d --sample 5000
    """
    asked = point_options.at_most_one(at, point) or point_options.Asked(parse("now"), None)
    with common.repository() as repository:
        chosen = asked.find(repository, vm)
        common.out.notify(point_options.in_words(chosen))
        backup = chosen.backup
        points = newest_first(repository.catalog_of_vm(backup.vm.id).points(backup.vm.id), times.now())
        ids = [each.backup_id for each in points]
        earlier = points[ids.index(backup.backup_id) + 1 :] if backup.backup_id in ids else []
        other = point_options.since(repository, since, chosen, ()).backup if since is not None else None
        if other is not None and other.backup_id == backup.backup_id:
            raise UsageError("--since names the same point", "Name an earlier point, or leave out --since.")
        with showing(common.out, "read files") as progress:
            result = check_files(
                CheckRun(repository, sample, reader, common.out.notify, progress), backup, earlier, other
            )
    display.show(common.out, result)
    if result.seen.problems or (exit_code and result.unusual):
        raise typer.Exit(PitrError.exit_code)
