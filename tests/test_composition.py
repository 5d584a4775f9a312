"""What composition_cases.py checks, in a process with JAX's own defaults and none of this suite's settings."""

import os
import subprocess
import sys

import pytest

from tests import composition_cases

CHECKS = [name for name in vars(composition_cases) if name.startswith("check_")]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def process():
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    settings |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-m", "tests.composition_cases"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=settings) as running:
        yield running
        running.stdin.close()


@pytest.mark.parametrize("check", CHECKS)
def test_it_composes_at_the_sizes_people_use(process, check):
    process.stdin.write(f"{check}\n")
    process.stdin.flush()
    answer = process.stdout.readline().strip()
    assert answer, "the process ended"
    assert answer == "ok", answer.encode().decode("unicode_escape")
