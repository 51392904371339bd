"""`dtufc --version`: releases, platform, and what the packages weigh."""

import platform
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path

from dtufc.cli.environment import package_sizes

DTUFC = Path(sys.executable).with_name("dtufc")


def test_version_names_releases_platform_and_the_five_largest_packages() -> None:
    done = subprocess.run([DTUFC, "--version"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    first, releases, where, total, *largest = done.stdout.splitlines()
    assert first == f"dtufc {version('dtufc')}"
    named = f"numpy {version('numpy')}, torch {version('torch')}"
    assert releases == f"Python {platform.python_version()}, {named}"
    assert where == platform.platform()
    sizes = [float(line.split(" MB  ")[0]) for line in largest]
    assert len(sizes) == 5
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) < float(total.split()[2])


def test_version_imports_no_torch() -> None:
    program = "import sys; sys.argv[1:] = ['--version']; from dtufc.cli import app; app(standalone_mode=False)"
    program += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60).returncode == 0


def test_a_package_weighs_what_its_files_do() -> None:
    sizes = package_sizes()
    assert set(sizes) == {distribution.name for distribution in distributions()}
    (numpy,) = (found for found in distributions() if found.name == "numpy")
    files = [Path(str(numpy.locate_file(file))) for file in numpy.files or []]
    assert sizes["numpy"] == sum(file.stat().st_size for file in files if file.exists()) > 1e6
