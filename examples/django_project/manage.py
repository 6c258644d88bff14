"""Django's commands for this project; `test` uses the settings of the tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# So that the project is found from everywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    settings = "test_settings" if sys.argv[1:2] == ["test"] else "settings"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"examples.django_project.mysite.{settings}")
    execute_from_command_line(sys.argv)
