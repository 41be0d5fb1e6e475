"""The `qvirt` command, in virsh's words, and `virt-ssh-helper`. Uses the client only."""
