# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the data of an engine's transfer in ovirt-imageio. Only this module knows both."""

from __future__ import annotations

from pitr.errors import EngineError
from pitr.ovirt.engine import AttachedTransfer, Engine, Transfer
from pitr.ovirt.imageio.address import ImageioAddress


def imageio_address(engine: Engine, transfer: Transfer | AttachedTransfer) -> ImageioAddress:
    """Return the address of an open transfer's data, with the engine's TLS settings.

    Raises EngineError when the transfer is not open, ImageioError when its URL is invalid.
    """
    url = transfer.transfer_url
    if url is None:
        raise EngineError(f"transfer {transfer.id} is not open", "Start another transfer on the engine.")
    return ImageioAddress(url, transfer.proxy_url, engine.config.cafile, engine.config.secure)
