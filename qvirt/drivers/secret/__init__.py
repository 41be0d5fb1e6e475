"""Secrets: passphrases and keys that domains use and documents only name."""
