"""This machine: its processors, memory and devices, and the emulators installed on it."""
