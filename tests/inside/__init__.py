"""Tests that need a kernel with AppArmor or SELinux: run in a small machine by `tests.support.testbed`."""
