# SPDX-License-Identifier: GPL-2.0-or-later
"""Sealed objects: age v1 files, written and read by pitr itself, because it reads them at any offset.

`age -d -i KEY OBJECT` opens each of them. The format is described at https://age-encryption.org/v1.
"""
