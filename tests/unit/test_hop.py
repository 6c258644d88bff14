"""One hop over a store in memory: the order of its effects, and what a crash, a copy or a late owner leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from conftest_of_unit import NOON
