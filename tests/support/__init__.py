"""What tests and the demo share: a guest to boot, a daemon to talk to, the stock clients."""
