"""Started programs end with their parent, even if it is killed while starting them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jobs.settings import CHECKOUT

PROGRAM = """
import os, time
from jobs.operate.processes import _end_with_parent
end_with_parent, parent = _end_with_parent(), os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)  # Only a new parent shows that the old one is gone.
end_with_parent()
print("alive", flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_a_process_whose_parent_is_already_dead_ends_immediately() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.stderr) == ("", "")
