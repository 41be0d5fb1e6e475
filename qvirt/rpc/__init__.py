"""libvirt's wire: XDR, packets and the protocol tables. Does no I/O and imports only errors and constants."""
