"""QEMUs that somebody else started, and guests of libvirt's."""
