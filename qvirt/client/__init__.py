"""The client: URIs, transports, an asyncio connection, a blocking face. Needs no compiled package."""
