# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr key`: the recipients of a sealed repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli.display import tables
from pitr.cli.key_options import EncryptOption
from pitr.cli.options import Common, with_common
from pitr.errors import UsageError
from pitr.jobs import documents, keys
from pitr.text import printable
from pitr.times import for_people, from_text

if TYPE_CHECKING:
    from pitr.repository.sealing.keyring import KeyEpoch

app = typer.Typer(help="List, change and check the recipients of a sealed repository.", no_args_is_help=True)

RecipientArgument = Annotated[
    str, typer.Argument(metavar="RECIPIENT", help="Age recipient, age1…, or 'passphrase'.")
]
AnyRecipientArgument = Annotated[
    str, typer.Argument(metavar="RECIPIENT", help="Age recipient, age1…, or its fingerprint.")
]


@app.command("list")
@with_common()
def list_(common: Common) -> None:
    """List the recipients, by epoch. The last epoch is the current one.

    Example: pitr key list
    """
    with common.repository() as repository:
        found = keys.listed(repository)
    if common.out.json:
        common.out.document(documents.keys(found))
        return
    common.out.show(
        tables.table(
            ("Epoch", "Since", "Recipient", "Fingerprint", "Opens with the given identities"),
            (
                (
                    str(epoch.number),
                    for_people(from_text(epoch.created)),
                    each.recipient,
                    each.fingerprint,
                    "yes" if each.opens else "",
                )
                for epoch in found
                for each in epoch.recipients
            ),
        )
    )
    if not found[-1].trusted:
        common.out.notify(
            "This host has not pinned these recipients, and writes nothing: see --trust-recipients."
        )


@app.command("check")
@with_common()
def check(common: Common) -> None:
    """Check that the given identities open what is sealed now. Exits with 1 if they do not.

    Example: pitr key check --identity /media/usb/pitr.key
    """
    with common.repository() as repository:
        keys.keyring_of(repository).check_opens()
        found = keys.listed(repository)
    if common.out.json:
        common.out.document(documents.keys(found))
    else:
        for epoch in found:
            opens = "open" if epoch.opens else "do NOT open"
            common.out.show(f"The given identities {opens} what was sealed in epoch {epoch.number}.")
    if not found[-1].opens:
        raise typer.Exit(1)


@app.command("add")
@with_common()
def add(common: Common, recipient: RecipientArgument) -> None:
    """Seal new backups to one more recipient. What is stored already stays as it is.

    Example: pitr key add age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
    """
    with common.repository() as repository:
        _show(common, keys.add(repository, recipient))


@app.command("remove")
@with_common()
def remove(common: Common, recipient: AnyRecipientArgument) -> None:
    """Seal new backups no longer to a recipient. It still opens what is stored already.

    Example: pitr key remove 1f2e3d4c5b6a7988
    """
    with common.repository() as repository:
        _show(common, keys.remove(repository, recipient))


@app.command("rotate")
@with_common()
def rotate(common: Common, encrypt: EncryptOption = None) -> None:
    """Seal new backups to other recipients, for example after a leak.

    Example: pitr key rotate --encrypt age1… --encrypt age1…
    """
    if encrypt is None or len(set(encrypt)) < 2:
        raise UsageError("pitr seals to two recipients", "Give --encrypt twice: keep one identity on paper.")
    with common.repository() as repository:
        _show(common, keys.rotate(repository, encrypt))


def _show(common: Common, epoch: KeyEpoch) -> None:
    if common.out.json:
        common.out.document(documents.key_epoch(epoch))
        return
    names = ", ".join(f"{printable(str(each))} ({each.fingerprint})" for each in epoch.recipients)
    common.out.show(
        f"From epoch {epoch.number} on, backups are sealed to: {names}. On each other host, run a command with "
        "--trust-recipients."
    )
