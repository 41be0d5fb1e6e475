"""Remote access, with real daemons and clients."""
