"""Are there known vulnerabilities in the installed dependencies? By pip-audit and the Python advisory database.

    python -m scripts.release.audit_dependencies

Exit code 0: none; 1: some, which are listed; 3: the database did not answer, so nothing is known. This is found out
by asking for a release with well-known vulnerabilities first, as pip-audit passes over what it cannot look up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KNOWN_TO_BE_VULNERABLE = "urllib3==1.26.4"


def run_pip_audit(*options: str) -> list[dict[str, Any]]:
    """What pip-audit says about each dependency; an empty list if it did not get that far."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *options]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return list(json.loads(process.stdout)["dependencies"])
    except (ValueError, KeyError, TypeError):
        print(process.stderr.strip().splitlines()[-1:] or "pip-audit printed nothing", file=sys.stderr)
        return []


def database_answers() -> bool:
    """Whether the release that is known to be vulnerable is reported as such."""
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "requirements.txt"
        canary.write_text(KNOWN_TO_BE_VULNERABLE + "\n", encoding="utf-8")
        packages = run_pip_audit("--requirement", str(canary), "--no-deps", "--disable-pip")
    return any(package.get("vulns") for package in packages)


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not database_answers():
        print("The database of vulnerabilities does not answer: the dependencies were NOT audited.")
        return 3
    packages = run_pip_audit("--skip-editable")
    if not packages:
        print("pip-audit failed: the dependencies were NOT audited.")
        return 3
    bad = [(package["name"], package["version"], vuln) for package in packages for vuln in package.get("vulns", [])]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    for name, version, vuln in bad:
        print(f"{name} {version}: {vuln['id']}, fixed in {', '.join(vuln['fix_versions']) or 'no release'}")
    print(
        f"{len(packages)} dependencies, {len(bad)} vulnerabilities; not in the database: {', '.join(unknown) or 'none'}"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
