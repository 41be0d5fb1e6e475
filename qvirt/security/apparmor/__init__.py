"""AppArmor: one profile for each guest, in libvirt's files and spelling."""
