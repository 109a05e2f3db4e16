# SPDX-License-Identifier: GPL-2.0-or-later
"""From the engine's transfer to its data in ovirt-imageio: the only module that knows both."""

from __future__ import annotations

from pitr.errors import EngineError
from pitr.ovirt.engine import AttachedTransfer, Engine, Transfer
from pitr.ovirt.imageio.address import ImageioAddress


def imageio_address(engine: Engine, transfer: Transfer | AttachedTransfer) -> ImageioAddress:
    """Return the address of the open transfer's data; it trusts the certificates that the engine's settings trust.

    Raises EngineError when the transfer is not open, ImageioError for an invalid URL.
    """
    url = transfer.transfer_url
    if url is None:
        raise EngineError(f"transfer {transfer.id} is not open", "Start another transfer on the engine.")
    return ImageioAddress(url, transfer.proxy_url, engine.config.cafile, engine.config.secure)
