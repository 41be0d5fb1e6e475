"""The command lines of older emulators: the same records, written as a QEMU of that age takes them.

`facts` knows what an emulator takes, from a table of when things came and went (`ages`) or from its own
``-help`` (`help_text`). `older` rewrites the records of today's command line by these facts, one pass after
the other; nothing here asks for a version.
"""
