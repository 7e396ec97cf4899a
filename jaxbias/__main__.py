"""The program, as `jaxbias` or `python -m jaxbias`: what belongs to a process and not to a call of `cli.main`."""

import os
import signal
import sys
import threading
import time
import warnings
from typing import NoReturn

_GRACE = 3.0
"""Seconds that Python gets to answer Ctrl-C by itself."""


def program() -> NoReturn:
    """Run the command line and end the process with its exit status."""
    try:
        _answer_interrupts()
        # Of a program in the cache XLA reports tuning flags that no processor has, as errors by the page (JAX 0.10).
        # What goes wrong in XLA arrives as an exception.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from jaxbias.app import cli, failure

        warnings.showwarning = failure.show_warning
        status = cli.main()
    except KeyboardInterrupt:  # before `main` could catch it
        print("jaxbias: interrupted", file=sys.stderr, flush=True)
        status = 130
    if status == 130:
        os._exit(status)  # threads that compile would be waited for
    sys.exit(status)


def _answer_interrupts() -> None:
    """Ctrl-C ends the program even where a compiler or a compiled program holds the main thread for long.

    Python's own handler runs between two instructions of the main thread only. What is on disk stays whole whenever the
    process ends.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # under nohup or in the background: Ctrl-C is not for us
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(reader, 1) != bytes([signal.SIGINT]):
            pass
        time.sleep(_GRACE)
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
        os.write(2, f"{show_cursor}jaxbias: interrupted\n".encode())
        os._exit(130)

    threading.Thread(target=watch, daemon=True, name="interrupts").start()


if __name__ == "__main__":
    program()
