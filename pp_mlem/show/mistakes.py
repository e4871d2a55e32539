"""How the command line tells mistakes and warnings: in one line each."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, TextIO

from typer.core import TyperGroup

from pp_mlem.show.interrupts import INTERRUPTED

MISTAKES = (ValueError, TypeError, OSError, NotImplementedError, ImportError)


class Commands(TyperGroup):
    """A mistake of the user's ends in one line, not in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _told
                return super().invoke(ctx)
        except BrokenPipeError:  # the reader has seen enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except MISTAKES as error:
            red, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() else ("", "")
            print(f"{red}error{plain} {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(INTERRUPTED)


def _told(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """A warning without the line of code that gave it."""
    print(f"warning {message}", file=sys.stderr)
