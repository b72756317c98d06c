"""`errors`: what a user sees at a command line."""

import subprocess
import sys

import pytest

from genfusion_ns.errors import UserError, exits_cleanly


def test_user_error_becomes_one_message_and_status_2(capsys):
    @exits_cleanly
    def command():
        raise UserError("found [0] photos in /tmp/x; expected at least 2. Check --data.")

    with pytest.raises(SystemExit) as exit_info:
        command()
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    # square brackets survive although the console knows markup
    assert captured.err.strip() == "error: found [0] photos in /tmp/x; expected at least 2. Check --data."


def test_other_errors_and_results_pass_through():
    @exits_cleanly
    def command(value: int) -> int:
        """A docstring."""
        return 10 // value

    assert command(5) == 2
    assert command.__doc__ == "A docstring."
    with pytest.raises(ZeroDivisionError):
        command(0)


def test_no_traceback_in_a_real_process():
    code = (
        "from genfusion_ns.errors import UserError, exits_cleanly\n"
        "@exits_cleanly\n"
        "def main():\n"
        "    raise UserError('zero focal length; expected a positive one')\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "zero focal length" in done.stderr
    assert "Traceback" not in done.stderr
