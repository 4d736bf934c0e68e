"""Memory: a peak that can be begun again, and what the machine and its control groups leave."""

import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.core.memory import available_gb, peak_gb, recent_peak_gb, reset_peak, resident_gb


def tree(root: Path, **files: str) -> Path:
    """Write files; "__" stands for a slash and "_dot_" for a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def megabytes(count: int) -> bytearray:
    """Memory that is really there: every page is written."""
    return bytearray(b"x" * count * 10**6)


def test_a_new_peak_forgets_the_old_one_and_the_whole_peak_does_not() -> None:
    held = megabytes(300)
    del held
    whole = peak_gb()
    assert reset_peak()
    assert recent_peak_gb() < whole - 0.2
    assert peak_gb() == whole
    held = megabytes(150)
    assert recent_peak_gb() >= resident_gb() - 0.01
    assert recent_peak_gb() < whole
    del held
    assert peak_gb() == whole


def test_a_process_does_not_inherit_the_peak_of_the_one_that_started_it() -> None:
    held = megabytes(300)
    code = "from tunesmith.core.memory import peak_gb; print(peak_gb())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(told) < 0.2 < len(held) / 1e9


def test_available_is_what_the_machine_has_without_a_control_group(tmp_path: Path) -> None:
    assert available_gb(tree(tmp_path, proc__meminfo="MemFree: 1 kB\nMemAvailable:  2000000 kB\n")) == 2.048
    assert available_gb(tmp_path / "nothing") is None


@pytest.mark.parametrize(("limit", "expected"), [("3000000000", 1.5), ("max", 20.48), ("900000000", 0.0)])
def test_a_control_group_limits_what_is_available(tmp_path: Path, limit: str, expected: float) -> None:
    root = tree(
        tmp_path,
        proc__meminfo="MemAvailable: 20000000 kB\n",
        proc__self__cgroup="0::/jobs/one\n",
        sys__fs__cgroup__jobs__memory_dot_max=limit + "\n",  # the limit of the group above holds too
        sys__fs__cgroup__jobs__memory_dot_current="2000000000\n",
        sys__fs__cgroup__jobs__memory_dot_stat="anon 1\ninactive_file 500000000\n",
        sys__fs__cgroup__jobs__one__memory_dot_max="max\n",
        sys__fs__cgroup__jobs__one__memory_dot_current="1\n",
    )
    assert available_gb(root) == expected


def test_the_first_version_of_control_groups_is_understood(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__meminfo="MemAvailable: 20000000 kB\n",
        proc__self__cgroup="9:name=systemd:/\n4:memory:/\n1:cpu:/\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="1500000000\n",
        sys__fs__cgroup__memory__memory_dot_usage_in_bytes="500000000\n",
    )
    assert available_gb(root) == 1.0


def test_this_machine_tells() -> None:
    left = available_gb()
    assert left is None or 0 < left < 1e5
