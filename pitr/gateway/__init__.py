# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP gateway: disks and points as streams for HTTP clients (docs/gateway.md).

An ASGI application. `app` has the routes, `operations` their parameters, and `server` runs the application. Blocking
work runs in threads; `channel` connects those with the event loop.
"""
