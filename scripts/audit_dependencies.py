"""Are there known vulnerabilities in the installed dependencies? By pip-audit and the Python advisory database.

    python scripts/audit_dependencies.py

Exit code 0: none; 1: some, which are listed; 3: the database did not answer, so nothing is known. This is found out
by asking for a release with well-known vulnerabilities first, as pip-audit passes over what it cannot look up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KNOWN_TO_BE_VULNERABLE = "urllib3==1.26.4"


def audited(*options: str) -> list[dict[str, Any]]:
    """What pip-audit says about each dependency; an empty list if it did not get that far."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError, TypeError):
        print(done.stderr.strip().splitlines()[-1:] or "pip-audit said nothing", file=sys.stderr)
        return []


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "requirements.txt"
        canary.write_text(KNOWN_TO_BE_VULNERABLE + "\n", encoding="utf-8")
        if not any(one.get("vulns") for one in audited("--requirement", str(canary), "--no-deps", "--disable-pip")):
            print("The database of vulnerabilities does not answer: the dependencies were NOT audited.")
            return 3
    found = audited("--skip-editable")
    if not found:
        print("pip-audit failed: the dependencies were NOT audited.")
        return 3
    bad = [(one["name"], one["version"], vuln) for one in found for vuln in one.get("vulns", [])]
    unknown = [one["name"] for one in found if "skip_reason" in one]
    for name, version, vuln in bad:
        print(f"{name} {version}: {vuln['id']}, mended in {', '.join(vuln['fix_versions']) or 'no release'}")
    print(f"{len(found)} dependencies, {len(bad)} vulnerabilities; not in the database: {', '.join(unknown) or 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
