"""Tests of what both ends of a network connection share."""
