"""qvirtd: listens, authenticates, and brings packets to calls; the one place where rpc meets api."""
