"""What both ends of a connection over a network share: TLS and its certificates, SASL."""
