"""Domains that live: process, monitor, state on disk, jobs. Lower layers are told what to do from here."""
