# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the project depends on: pinned, under licences that go with its own, without known faults.

    python scripts/audit.py                     in the environment of `make`
    python scripts/audit.py --require-database  end with 1 where advisories cannot be read, as in CI

Ends with 1 for a requirement without a version, a licence that an Apache-2.0 project cannot build
on (`REFUSED`) or none outside ROS, and a version with a published advisory (pip-audit, installed
into .cache/audit). Without a way to the database of advisories that part is reported as not done.
ROS's wheels have no licence in their metadata; by their package.xml it is Apache-2.0 or BSD.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AUDIT = ROOT / ".cache" / "audit"
REFUSED = re.compile(r"(?<!L)\bA?GPL|GNU (Affero )?General Public|propriet|non-?commercial", re.I)
# Packages under such a licence, and why that is fine.
EXCEPTIONS = {
    "evo": "GPL-3.0: an extra of people at a desk, imported by `vggt eval` alone, not distributed",
}


def requirements() -> Iterator[tuple[Path, str]]:
    """Every line of the requirement files, without comments and conditions."""
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for line in path.read_text().splitlines():
            if wanted := line.partition("#")[0].partition(";")[0].strip():
                yield path, wanted


def unpinned() -> list[str]:
    """Requirements that name no single version."""
    pin = re.compile(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+]+")
    return [f"{path.name}: {line} names no version" for path, line in requirements()
            if not pin.fullmatch(line)]  # fmt: skip


def licence(found: Distribution) -> str:
    """What a package's metadata say of its licence; the shortest that they have."""
    meta = found.metadata
    classifiers = [c.rpartition("::")[2] for c in meta.get_all("Classifier", [])
                   if c.startswith("License ::") and not c.endswith("OSI Approved")]  # fmt: skip
    expression, text = (meta.get_all(name, [""])[0] for name in ("License-Expression", "License"))
    texts = [expression, *classifiers, text]
    return next((text.strip() for text in texts if text and text.strip()), "")


def wrong_licences() -> list[str]:
    """Installed packages under licences that do not go with ours, and those that state none."""
    found = {each.metadata["Name"]: licence(each) for each in distributions()}
    ros = {name for name in found if name.startswith("ros-")}
    # With those whose messages are built here.
    ros |= {name.removeprefix("ros-").replace("-", "_") for name in ros} | {
        path.name for path in (ROOT / "cmake").iterdir()
    }
    wrong = []
    for name, text in sorted(found.items()):
        if REFUSED.search(text[:200]) and name.lower() not in EXCEPTIONS:
            wrong.append(f"{name}: licence {text.splitlines()[0][:80]!r}")
        elif not text and name not in ros:
            wrong.append(f"{name}: its metadata state no licence")
    return wrong


def advisories() -> tuple[list[str], str]:
    """Published advisories for the pinned versions; and why they are not known, or empty."""
    program = AUDIT / "bin" / "pip-audit"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", AUDIT], check=True)
        if subprocess.run([program.with_name("pip"), "install", "-q", "pip-audit"]).returncode:
            return [], "pip-audit cannot be installed"
    pins = AUDIT / "pins.txt"
    installed = {f"{found.metadata['Name']}=={found.version}" for found in distributions()}
    own = {line.partition("==")[0].partition("[")[0].lower() for _, line in requirements()}
    wanted = {pin for pin in installed if pin.partition("==")[0].lower() in own}
    pins.write_text("\n".join(sorted(p for p in wanted if not p.startswith("ros-"))) + "\n")
    command = [program, "-r", pins, "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if "No known vulnerabilities found" in said and "could not be audited" not in said:
        return [], ""
    if "could not be audited" in said or not re.search(r"(GHSA|PYSEC|CVE)-", said):
        last = said.strip().splitlines()[-1] if said.strip() else "no output"
        return [], f"the database of advisories was not reached ({last[:100]})"
    return [line for line in said.splitlines() if re.search(r"(GHSA|PYSEC|CVE)-", line)], ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Audit what the project depends on.")
    parser.add_argument("--require-database", action="store_true", help="advisories must be read")
    options = parser.parse_args()
    pins = len(list(requirements()))
    wrong = unpinned()
    print(f"audit: {pins} requirements, {len(wrong)} without a version")
    strange = wrong_licences()
    count = len(list(distributions()))
    print(f"audit: licences of {count} packages, {len(strange)} do not go with ours")
    found, unknown = advisories()
    print(f"audit: advisories {f'NOT CHECKED: {unknown}' if unknown else len(found)}")
    wrong += strange + found + ([unknown] if unknown and options.require_database else [])
    if wrong:
        sys.exit("\n".join(f"  {line}" for line in wrong))


if __name__ == "__main__":
    main()
