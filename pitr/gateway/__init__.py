# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP gateway: disks and points as streams for whoever speaks HTTP (docs/gateway.md).

An ASGI application: `app` has the routes, `operations` what they take, `server` runs it. Whatever blocks runs in
threads; `channel` is the bounded way between those and the event loop.
"""
