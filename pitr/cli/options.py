# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that commands share. You can give the common ones before or after the command's name."""

from __future__ import annotations

import getpass
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr.cli.config import Settings, load_settings
from pitr.cli.display.output import Printer
from pitr.errors import UsageError
from pitr.system.target_path import given_path, repository_folder

if TYPE_CHECKING:
