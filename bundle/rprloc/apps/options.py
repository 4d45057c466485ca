"""Options that several commands share, and what ends a command with one line and exit code 2."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rprloc.apps.console import Messages, describe_failure
from rprloc.errors import InputError

log = logging.getLogger("rprloc")


class Commands(TyperGroup):
    """The group of all commands; input that cannot be used ends any of them with one line and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of the output has seen enough, and Typer ends quietly
        except (InputError, OSError, MemoryError) as error:
            log.error("%s", describe_failure(error))
            log.info("It happened here:", exc_info=True)
            raise typer.Exit(2) from error


class Device(str, Enum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def set_verbose(verbose: bool) -> bool:
    """Show messages on stderr: warnings, or with ``verbose`` more."""
    log.handlers[:] = [Messages()]
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    return verbose


Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=set_verbose, help="Print more on stderr.")]
Model = Annotated[
    Path | None,
    typer.Option(metavar="MODEL", help="Weights (model.pt), or the name of shipped ones ('rprloc models' lists them)."),
]
Where = Annotated[Device, typer.Option(help="auto: the GPU if there is one with enough memory, else the CPU.")]
SetFile = Annotated[
    str,  # not Path, which takes ./@set.json for @set.json
    typer.Argument(
        metavar="SET", help="A file of 'rprloc support build', or a ready-made set, as 'rprloc sets' lists."
    ),
]
Series = Annotated[str | None, typer.Option(metavar="UID", help="DICOM series, if a folder has several.")]
