"""Ctrl-C at any moment ends a command with one sentence and the documented exit code."""

import signal
import subprocess
import sys
import time
import weakref

import pytest

from rawnind.cli.interrupted import noting_ctrl_c
from rawnind.exit_codes import ExitCode


@pytest.mark.parametrize(
    "module", ["rawnind.errors", "click", "rawnind.cli.sources", "rawnind.indexing.build", "numpy"]
)
def test_ctrl_c_while_modules_are_imported_ends_with_a_sentence_and_the_documented_code(module, small_set):
    """Before the group of commands is there, while it is made, and in a command, also where the import makes another error of it."""
    press = f"""
import os, runpy, signal, sys
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                if name == "numpy":
                    raise TypeError("expected a message argument")  # seen in numpy's own import
                raise
sys.meta_path.insert(0, Pressed())
sys.argv = ["rawnind", "index", {str(small_set)!r}, "--by-time", "60"]
runpy.run_module("rawnind.cli", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", press], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.STOPPED
    assert done.stderr == "rawnind: interrupted; run the same command again to resume\n"


@pytest.fixture
def pythons_handler():
    """Python's own handler of SIGINT: Ray's trainer leaves one behind in the process that it ran in."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("pythons_handler")
def test_ctrl_c_in_a_callback_that_drops_exceptions_interrupts_all_the_same():
    """As in the one that frees a module's import lock, which printed a traceback and let the command run on."""

    class Freed:
        pass

    with pytest.raises(KeyboardInterrupt), noting_ctrl_c():  # noqa: PT012 - the signal comes a moment later
        freed = Freed()
        callback = weakref.ref(freed, lambda _: signal.raise_signal(signal.SIGINT))
        del freed
        assert callback() is None
        time.sleep(5)
