"""What confines a QEMU, proved from inside and by what is left afterwards."""
