"""The form of the messages of InputError: short sentences, without a formula, that end with a full stop."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 300  # without what is put in: three lines of 100 letters


def read_messages(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of every InputError that a file makes; ``{}`` stands for what is put in.

    A text that the file gives a name to counts as that text. A message that is another one's text alone is left out.
    """
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = _text(node.value, known)
            if text is not None:
                known[node.targets[0].id] = text
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "InputError":
            text = _text(node.args[0], known)
            if text is not None:
                yield node.lineno, text


def _text(node: ast.expr, known: Mapping[str, str]) -> str | None:
    """The text of an expression, None if it is none that the file shows."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, known) or "{}" for part in node.values)
    if isinstance(node, ast.FormattedValue):
        if isinstance(node.value, ast.Name) and node.value.id == "error":
            return "{error}"
        return _text(node.value, known)
    if isinstance(node, ast.BinOp):
        return (_text(node.left, known) or "{}") + (_text(node.right, known) or "{}")
    if isinstance(node, ast.IfExp):  # that of the two which ends without a full stop, if one does
        ways = [text for text in (_text(node.body, known), _text(node.orelse, known)) if text]
        return max(ways, key=lambda text: not text.endswith("."), default=None)
    return None


def find_faults(text: str) -> list[str]:
    """What is wrong with the form of a message."""
    faults = []
    if "was expected;" in text or "were expected;" in text:
        faults.append("the formula 'was expected;'")
    # What only says where another message belongs ends as that one does.
    if not text.endswith((".", ": {error}")):
        faults.append("no full stop at the end")
    if len(text) > LONGEST:
        faults.append(f"{len(text)} letters")
    return faults


def test_messages_are_sentences_without_a_formula() -> None:
    files = [path for folder in ("bundle/rprloc", "SlicerRPRLoc") for path in (ROOT / folder).rglob("*.py")]
    messages = {
        f"{path.relative_to(ROOT)}:{line}": text
        for path in sorted(files)
        for line, text in read_messages(path.read_text(encoding="utf-8"))
    }
    assert len(messages) > 100
    assert {where: (text, find_faults(text)) for where, text in messages.items() if find_faults(text)} == {}


@pytest.mark.parametrize(
    ("call", "faults"),
    [
        ('InputError("The device is not known. Choose one.")', []),
        ('InputError(f"{path}: {error}")', []),
        ('InputError(f"{path} is empty; a name was expected; give one.")', ["the formula 'was expected;'"]),
        (
            'InputError(f"{path} holds {n} scans; two were expected; " "add one")',
            ["the formula 'was expected;'", "no full stop at the end"],
        ),
        ('InputError(f"{path} cannot be read ({error})")', ["no full stop at the end"]),
        ('InputError(f"{path} is none. {ADVICE}")', ["no full stop at the end"]),
        (f'InputError("{"Much. " * 51}")', ["no full stop at the end", "306 letters"]),
    ],
)
def test_faults_of_form_are_found(call: str, faults: list[str]) -> None:
    ((_, text),) = read_messages(f'ADVICE = "Correct it"\nraise {call}\n')
    assert find_faults(text) == faults
