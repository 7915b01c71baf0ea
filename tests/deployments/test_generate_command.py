"""`zimage-serve generate`: what is refused before drawing, who is asked, and how Ctrl-C ends it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path


def test_ctrl_c_in_the_middle_of_a_step_ends_the_command_with_a_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.png"
    drawing = ["generate", "x", "--model", str(tiny_model), "--size", "1024x1024", "--steps", "50"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", *drawing, "-o", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stderr is not None
        seen = b""
        while re.search(rb" [1-9]\d*/50", seen) is None:
            read = os.read(process.stderr.fileno(), 1000)
            assert read, seen
            seen += read
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 130, errors
    assert printed.splitlines()[-1] == b"zimage-serve: interrupted"
    assert b"Traceback" not in errors
    assert not output.exists()
