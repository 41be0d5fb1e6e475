"""Every libvirt XML document as typed data, in libvirt's words. Pure: no defaults, no policy, no I/O."""
