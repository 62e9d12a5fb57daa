"""`make audit`: known vulnerabilities of what is pinned, and a bill of materials (CycloneDX) of what is installed.

Exit status: 0: asked, and nothing is known; 1: something is known; 2: not all could be asked, which proves nothing.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOCKS = ("requirements-cpu.lock", "deploy/images/cuda.lock")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes OUT/vulnerabilities.json and OUT/sbom.cdx.json, and tells what is in them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="folder with pip-audit and cyclonedx-py")
    parser.add_argument("--python", type=Path, required=True, help="interpreter whose packages the bill lists")
    parser.add_argument("--out", type=Path, default=Path("out/audit"))
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    bill = options.out / "sbom.cdx.json"
    parts = ["environment", "--pyproject", "pyproject.toml", "--output-reproducible", "--output-file", str(bill)]
    done = subprocess.run([str(options.tools / "cyclonedx-py"), *parts, str(options.python)], check=False)  # noqa: S603
    if done.returncode != 0:
        print("audit: no bill of materials could be written; see above", file=sys.stderr)
        return 2
    print(f"{bill}: {len(json.loads(bill.read_text())['components'])} components")
    return told(asked(options.tools), options.out / "vulnerabilities.json")


def asked(tools: Path) -> dict[str, Any]:
    """What pip-audit says of each pinned package; `dependencies` is empty where it could not ask at all."""
    locks = [part for lock in LOCKS for part in ("--requirement", lock)]
    command = [
        str(tools / "pip-audit"),
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner=off",
        *locks,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"dependencies": [], "error": last}


def told(found: dict[str, Any], file: Path) -> int:
    """Writes what was found, and says it; the exit status."""
    file.write_text(json.dumps(found, indent=1) + "\n")
    packages = found["dependencies"]
    known = [(each["name"], each["version"], each["vulns"]) for each in packages if each.get("vulns")]
    unasked = [each["name"] for each in packages if "skip_reason" in each]
    for name, version, vulnerabilities in known:
        fixes = sorted({fix for each in vulnerabilities for fix in each["fix_versions"]})
        ids = ", ".join(each["id"] for each in vulnerabilities)
        print(f"{name} {version}: {ids}; mended in {', '.join(fixes) or 'no version yet'}")
    print(f"{file}: {len(packages) - len(unasked)} packages asked about, {len(known)} with known vulnerabilities")
    if not packages or unasked:
        what = (
            f"of {len(unasked)} packages nothing is known: {', '.join(unasked[:5])} ..." if packages else found["error"]
        )
        print(f"NOT AUDITED: the service that knows vulnerabilities did not answer: {what}", file=sys.stderr)
    if known:
        return 1
    return 2 if unasked or not packages else 0


if __name__ == "__main__":
    sys.exit(main())
