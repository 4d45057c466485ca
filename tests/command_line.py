"""The command line, run in the process of the test."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def complaints(self) -> str:
        """What stderr says besides that the example's random weights are not calibrated."""
        from rprloc.localization.confidence import NOT_CALIBRATED

        return "".join(line for line in self.stderr.splitlines(keepends=True) if NOT_CALIBRATED not in line)


def rprloc(*arguments: object) -> Run:
    """Run the command line with these arguments."""
    from typer.testing import CliRunner

    from rprloc.apps.cli import app

    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Run(done.exit_code, done.stdout, done.stderr)
