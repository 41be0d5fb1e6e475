"""What reads bytes of strangers, driven by bytes made up; `python -m tests.fuzz` has atheris do it."""
