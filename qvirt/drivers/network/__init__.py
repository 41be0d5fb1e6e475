"""Virtual networks: documents, what is made of them on the host, and how guests plug into them."""
