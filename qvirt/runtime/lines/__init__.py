"""Command lines in and out."""
